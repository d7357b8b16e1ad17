"""Like ceeh.fit, the command answers a mistake before it imports what takes seconds."""

from tests.fit.test_command import imported_by


def test_help_and_a_typo_import_no_torch() -> None:
    assert imported_by("ceeh.evaluate", "--help") == "[]"
    typo = ["starter", "--benchmarks", "starter", "sampels=2"]
    assert imported_by("ceeh.evaluate", *typo) == "[]"
