"""The fault injection experiments themselves, in short forms; kills with the real engine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fault_injection.__main__ import SHORT, main
from fault_injection.equality import unequal
from fault_injection.page import ROOT, page

# `tracking` takes three minutes, and tests/tracking has a real server too.
IN_CI = [name for name in SHORT if name != "tracking"]


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("experiment", IN_CI)
def test_a_short_form_passes(experiment: str, tmp_path: Path) -> None:
    assert main(["--short", "--only", experiment, "--work", str(tmp_path)]) == 0


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
