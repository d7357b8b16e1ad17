"""The fault injection experiments themselves, in short forms; kills with the real engine."""

from pathlib import Path

import pytest

from fault_injection.__main__ import SHORT, main
from fault_injection.page import ROOT, page


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("experiment", SHORT)
def test_a_short_form_passes(experiment: str, tmp_path: Path) -> None:
    assert main(["--short", "--only", experiment, "--work", str(tmp_path)]) == 0


def test_the_page_is_not_stale() -> None:
    written = (ROOT / "docs" / "reliability.md").read_text()
    assert page() == written, "run python -m fault_injection.page"
