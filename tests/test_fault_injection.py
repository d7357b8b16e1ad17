"""The fault injection experiments themselves, in short forms; kills with the real engine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fault_injection.__main__ import main
from fault_injection.equality import unequal
from fault_injection.page import ROOT, page


@pytest.mark.slow
@pytest.mark.engine
def test_the_short_form_of_kills_passes(tmp_path: Path) -> None:
    """The others take four minutes; tests of the tracking and of the verifiers inject the same faults."""
    assert main(["--short", "--only", "kills", "--work", str(tmp_path)]) == 0


def test_the_page_is_not_stale() -> None:
    written = (ROOT / "docs" / "reliability.md").read_text()
    assert page() == written, "run python -m fault_injection.page"


def test_the_comparison_of_runs_sees_every_difference_but_times() -> None:
    one = {"a": [1.0, float("nan")], "t": torch.tensor([0.0, float("nan")]), "n": np.array(["u"])}
    assert list(unequal(one, one | {"time/step": 3.0}, "row")) == []
    for name, other in (
        ("a", [1.0]),
        ("a", [1, float("nan")]),
        ("t", torch.tensor([-0.0, float("nan")])),
        ("t", one["t"][None]),
        ("t", one["t"].double()),
        ("n", np.array(["v"])),
    ):
        assert len(list(unequal(one, one | {name: other}, "row"))) == 1, other
