"""Scaling on paper: docs/scaling.md holds the script's tables, and two ranks move the bytes it counts."""

from pathlib import Path

import pytest

from benchmarks.scaling.measure import measure
from benchmarks.scaling.models import shapes_of
from benchmarks.scaling.step import GPUS, Step
from benchmarks.scaling.tables import PAGE, TABLES, write
from ceeh.memory.devices import GIB


def test_the_page_holds_the_scripts_tables(tmp_path: Path) -> None:
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text())
    write(page)
    assert page.read_text() == PAGE.read_text(), "run python -m benchmarks.scaling --write"
    assert all(f"<!-- {name} -->\n| " in PAGE.read_text() for name in TABLES)


@pytest.mark.parametrize(
    ("model", "billions"), [("1.5B", 1.777), ("7B", 7.62), ("32B", 32.76), ("70B", 70.55)]
)
def test_models_have_the_parameters_of_their_cards(model: str, billions: float) -> None:
    assert shapes_of(model, "full").parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_all_weights_take_16_bytes_a_parameter_over_all_gpus() -> None:
    """fp32 weights, gradients and two moments."""
    for gpus in GPUS:
        step = Step("7B", "full", gpus)
        held = gpus * (step.weights + step.moments + step.gradients)
        assert held / step.shapes.parameters == pytest.approx(16)


def test_more_gpus_never_hold_more_each_and_are_never_slower() -> None:
    for kind in ("LoRA 32", "full"):
        steps = [Step("7B", kind, gpus) for gpus in GPUS[1:]]
        held = [step.update_memory / GIB for step in steps]
        times = [step.generation()[0] + step.computing for step in steps]
        assert held == sorted(held, reverse=True)
        assert times == sorted(times, reverse=True)


@pytest.mark.slow
def test_two_ranks_move_the_predicted_bytes() -> None:
    """Weights for each forward and backward pass, gradients once or in each micro-batch."""
    once, each = measure([(2, False), (2, True)])
    for seen in (once, each):
        assert 0.98 < seen.counted / seen.predicted < 1.1  # others may use the loopback device
    assert each.counted > once.counted
