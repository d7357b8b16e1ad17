"""CEEHModule in a real fit: stale batches, NaN and infinity, entropy with gradient, schedules."""

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from ceeh.callbacks.weight_sync import WeightSync
from ceeh.config.settings import Config
from ceeh.errors import RunError
from ceeh.fit import fit
from ceeh.modules import head
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.modules.schedule import learning_rate_scale
from ceeh.types import Completion, Finish
from tests import test_fit
from tests.test_fit import rows, steps, weights
from tests.torch_engine import TorchEngine

pytestmark = pytest.mark.usefixtures("without_figures")


def small(model: Path, output: Path, *overrides: str) -> Config:
    return test_fit.small(model, output, "rollouts.steps=2", *overrides)


def test_a_batch_of_older_weights_is_refused(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightSync, "on_train_batch_end", lambda *_: None)
    message = "rollout step 1: sampled by policy version 0, trained at version 2; the WeightSync"
    with pytest.raises(ValueError, match=message):
        fit(small(tiny_model_dir, tmp_path))


def test_a_run_on_packed_rows_has_the_numbers_of_one_with_padding(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """With log-probs of the trainer and the starting policy, and an evaluation: all of its passes."""
    given = (
        "rollouts.steps=1",
        "rollouts.max_response_tokens=40",  # so that some responses end, and none of the means is empty
        "objective.old_logprobs=trainer",
        "objective.kl_coefficient=0.1",
    )
    found = []
    for attention in ("sdpa", "varlen"):
        settings = (f"model.attention={attention}", *given)
        found.append(rows(fit(small(tiny_model_dir, tmp_path / attention, *settings))))
    padding = [
        [line.pop("optimizer/padding_fraction") for line in lines if "loss/policy" in line]
        for lines in found
    ]
    assert padding[0][0] > 0
    assert padding[1] == [0]
    for padded, packed in zip(*found, strict=True):
        assert packed == pytest.approx(padded, rel=1e-4, abs=1e-5)


def test_entropy_reaches_the_weights_only_where_the_method_has_a_gradient(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Without rewards every advantage is 0: only the bonus moves the weights."""
    equal = (
        "objective.shaping.class_path=tests.torch_engine.EqualRewards",
        "objective.kl_coefficient=0",
        "rollouts.steps=1",
        "rollouts.canary_tolerance=10",
        "optimizer.prompts_per_minibatch=4",
    )
    start = Policy(
        small(tiny_model_dir, tmp_path).model,
        str(tiny_model_dir),
        temperature=1.0,
        keep_reference=False,
    ).state_dict()
    moved = {}
    for method in ("me", "uniform", "ea", "none"):
        output = tmp_path / method
        folder = fit(small(tiny_model_dir, output, f"objective.entropy.method={method}", *equal))
        after = weights(folder)
        moved[method] = any(
            not torch.equal(value, after[f"policy.{name}"]) for name, value in start.items()
        )
    assert moved == {"me": True, "uniform": True, "ea": False, "none": False}


def test_updates_that_are_not_finite_are_skipped_and_counted_and_three_stop_the_run(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, calls = head.evaluate, []

    def broken(*arguments):
        logprobs, *others = evaluate(*arguments)
        if sys._getframe(1).f_code.co_name == "forward":  # of the objective, not of an evaluation
            calls.append(None)
            if len(calls) in broken_calls:
                logprobs[-1] = float("nan")
        return logprobs, *others

    monkeypatch.setattr(head, "evaluate", broken)
    broken_calls = {2}
    folder = fit(small(tiny_model_dir, tmp_path / "one"))
    skipped = [row["optimizer/skipped_in_a_row"] for row in steps(folder)]
    assert skipped == [1.0, 0.0]
    assert all(value.isfinite().all() for value in weights(folder).values())
    # The second of the first step's two updates; the one row whose log-prob was NaN.
    (file,) = folder.glob("rollouts/skipped-*.parquet")
    assert file.name == "skipped-000001.parquet"
    assert len(pq.read_table(file)) == 1
    calls.clear()
    broken_calls = set(range(1, 9))
    message = r"not finite in 4 updates in a row, the limit of optimizer\.max_skipped_updates"
    with pytest.raises(RunError, match=message):
        fit(small(tiny_model_dir, tmp_path / "four", "optimizer.max_skipped_updates=4"))
    assert len(list((tmp_path / "four").glob("starter/rollouts/skipped-*.parquet"))) == 2


def test_an_aborted_response_without_a_token_leaves_every_number_finite(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, empty = TorchEngine._sample, []

    def aborting(self: TorchEngine, *given: Any) -> Completion:
        if given[-1] % 4 or not given[-1]:  # 0: the canary
            return sample(self, *given)
        empty.append(given)
        return Completion(text="", token_ids=(), logprobs=(), finish=Finish.ABORT)

    monkeypatch.setattr(TorchEngine, "_sample", aborting)
    folder = fit(small(tiny_model_dir, tmp_path))
    assert len(empty) > 4
    assert all(row["loss/entropy"] > 0 for row in steps(folder))
    assert all(row["eval/entropy"] > 0 for row in rows(folder) if "eval/entropy" in row)
    assert all(value.isfinite().all() for value in weights(folder).values())


def test_a_custom_shaping_decides_the_rewards(tiny_model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "class Mine:\n    reads = ()\n    def __call__(self, inputs):\n"
        "        return inputs.scores.sub_(0.125 * inputs.lengths)\n"  # in place
    )
    folder = fit(small(tiny_model_dir, tmp_path, f"objective.shaping.class_path={file}:Mine"))
    for row in steps(folder):
        assert row["reward/shaping"] == pytest.approx(-0.125 * row["rollout/tokens_mean"])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        # After 2 of warm-up, 4 steps down: (4 - 0) / 4, 3/4, 2/4, 1/4, 0.
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
        # (1 + cos(pi p)) / 2 at p = 0, 1/4, 1/2, 3/4, 1.
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0]),
    ],
)
def test_learning_rate_warms_up_and_follows_its_schedule(
    schedule: str, expected: list[float]
) -> None:
    scale = learning_rate_scale(schedule, warmup=2, total=6)
    assert [scale(step) for step in range(7)] == pytest.approx(expected, abs=1e-6)


def test_the_checkpoint_of_another_model_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = small(tiny_model_dir, tmp_path)
    module = CEEHModule(
        config, Policy(config.model, str(tiny_model_dir), temperature=1.0, keep_reference=False)
    )
    progress = {"fit_loop": {"epoch_loop.batch_progress": {}}}
    state = {"bad_updates": 0, "rollout_step": 0, "state_dict": {}, "loops": progress}
    with pytest.raises(ValueError, match=r"lacks \d+ trained weights, e\.g\. 'policy\."):
        module.on_load_checkpoint(state)
