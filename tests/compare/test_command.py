"""Like ceeh.fit, the command answers a mistake before it imports what takes seconds."""

from pathlib import Path

from tests.fit.test_command import imported_by


def test_help_and_a_typo_import_no_torch(tmp_path: Path) -> None:
    assert imported_by("ceeh.compare", "--help") == "[]"
    assert imported_by("ceeh.compare", str(tmp_path), "x=nowhere") == "[]"
    assert imported_by("ceeh.compare", str(tmp_path), str(tmp_path), "--draws", "5") == "[]"
