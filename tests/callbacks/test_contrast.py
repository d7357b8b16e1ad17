"""A run whose rewards teach nothing stops, and says what to do."""

from pathlib import Path

import pytest

from ceeh.callbacks.contrast import cure
from ceeh.errors import RunError
from ceeh.fit import fit
from tests.test_fit import newest, small

pytestmark = pytest.mark.usefixtures("without_figures")
NOTHING = "objective.shaping.class_path=tests.torch_engine.EqualRewards"


@pytest.mark.parametrize(
    "advantages",
    [
        pytest.param([], id="all zero"),
        pytest.param(
            [
                "objective.advantage_boost=0.1",
                "verifier.init_args={class_path: tests.rewards.even_length}",
            ],
            id="raised for correct responses",
        ),
    ],
)
def test_a_run_stops_after_that_many_steps_without_contrast(
    tiny_model_dir: Path, tmp_path: Path, advantages: list[str]
) -> None:
    with pytest.raises(RunError, match=r"in 3 rollout steps in a row \(rollouts.max_flat_steps\)"):
        fit(small(tiny_model_dir, tmp_path, NOTHING, "rollouts.max_flat_steps=3", *advantages))
    files = sorted(file.stem for file in (tmp_path / "starter" / "rollouts").glob("*.parquet"))
    assert files == ["step-000001", "step-000002", "step-000003"]


def test_steps_with_contrast_start_the_count_again(tiny_model_dir: Path, tmp_path: Path) -> None:
    # Long enough for about half of the responses to end: with fewer, a step can be flat by chance.
    long = ["rollouts.max_response_tokens=40", "rollouts.completions_per_prompt=6"]
    folder = fit(small(tiny_model_dir, tmp_path, "rollouts.max_flat_steps=1", *long))
    assert newest(folder)["callbacks"]["ContrastGuard"] == {"flat_steps": 0}


def test_the_count_is_resumed(tiny_model_dir: Path, tmp_path: Path) -> None:
    fit(small(tiny_model_dir, tmp_path, NOTHING, "rollouts.steps=2"))
    with pytest.raises(RunError, match="in 3 rollout steps in a row"):
        fit(small(tiny_model_dir, tmp_path, NOTHING, "rollouts.max_flat_steps=3", "ckpt_path=last"))


def test_the_cure_fits_the_accuracy() -> None:
    assert "python -m ceeh.sft" in cure(0.0)
    assert "harder questions" in cure(1.0)


@pytest.mark.parametrize(("correct", "warned"), [("never", True), ("even_length", False)])
def test_a_base_that_solves_nearly_nothing_is_named_before_training(
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    correct: str,
    warned: bool,
) -> None:
    verifier = f"verifier.init_args={{class_path: tests.rewards.{correct}}}"
    fit(small(tiny_model_dir, tmp_path, verifier, "rollouts.steps=1"))
    out = capsys.readouterr().out
    assert ("warning: the base solves 0.0% of the held-out questions" in out) is warned
