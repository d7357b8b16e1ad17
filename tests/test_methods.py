"""Every method of configs/methods runs five rollout steps through the whole path, on a torch engine."""

from dataclasses import replace
from math import exp, sqrt
from pathlib import Path
from typing import Any

import pytest

from ceeh.callbacks.controllers import accuracy_variance
from ceeh.config.settings import Config, load
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.fit import fit
from tests.endings import Killed, at_call, die
from tests.metric_table import differences
from tests.test_fit import SHIPPED, SMALL, rows, weights

pytestmark = pytest.mark.usefixtures("without_figures")

OVERLAYS = sorted((SHIPPED.parent / "methods").glob("*.yaml"))
SMALL_PROBE = [
    "rollouts.probe.questions=4",
    "rollouts.max_response_tokens=24",  # in 8 tokens no group has two correct responses
    "callbacks.length_controller.init_args.window=1",
]
# Responses have 8 tokens at most here instead of 288, and there are 12 questions: what an overlay says in
# tokens or questions comes down with them.
SCALED = {
    "budget": ["rollouts.max_response_tokens=24"],  # as above
    "dapo": ["objective.shaping.init_args.margin=4"],
    "dler": [
        "objective.shaping.init_args.limits=[3]",
        "rollouts.dynamic_sampling.limit_tokens=3",
    ],
    "lead": [
        "objective.shaping.init_args={shortest: 2, longest: 8}",
        "callbacks.weight.init_args={shortest: 2, longest: 8}",
    ],
    "laser_d": ["callbacks.targets.init_args={shortest: 2, longest: 8, interval: 1, window: 8}"],
    "knapsack": ["rollouts.allocation={minimum: 2, maximum: 5}"],
    "length_controller": SMALL_PROBE,
    "controllers": SMALL_PROBE,
    "think_prune": ["objective.shaping.init_args.limits=[4, 3, 2]"],
}
WITHOUT_LENGTH_TERM = {"grpo", "dr_grpo", "gspo", "cispo"}
MAY_BE_UNDEFINED = {  # means over rows or tokens of which a step may have none
    "rollout/tokens_correct",
    "rollout/tokens_wrong",
    "rollout/accuracy_easy",
    "rollout/accuracy_hard",
    "rollout/tokens_easy",
    "rollout/tokens_hard",
    "reward/length_penalty",
    "loss/entropy_hard",
    "loss/entropy_easy",
}


def small(overlay: Path, model: Path, output: Path, *overrides: str) -> Config:
    # 12 questions, 4 a step: in five steps some come again, with a history.
    again = ("prompts.train.init_args.questions=12", *SCALED.get(overlay.stem, []))
    given = [*SMALL, *again, f"model.path={model}", f"output={output}", *overrides]
    return load([SHIPPED, overlay], given)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_five_steps_of_the_method_train(
    overlay: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = small(overlay, tiny_model_dir, tmp_path, "rollouts.steps=5")
    folder = fit(config)
    assert folder.name == overlay.stem
    steps = [row for row in rows(folder) if "loss/policy" in row]
    assert [row["rollout_step"] for row in steps] == [1, 2, 3, 4, 5]
    undefined = {name for row in steps for name, value in row.items() if value is None}
    assert undefined <= MAY_BE_UNDEFINED
    shaped = any(row["reward/shaping"] != 0 for row in steps)
    assert shaped is (overlay.stem not in WITHOUT_LENGTH_TERM)
    assert any(row["optimizer/grad_norm"] > 0 for row in steps)
    assert all(value.isfinite().all() for value in weights(folder).values())
    assert differences(folder, "fit", config) == []


def test_overlays_differ_in_their_method_and_in_nothing_else() -> None:
    chosen = [load([SHIPPED, overlay]) for overlay in OVERLAYS]
    parts = [(config.objective, config.callbacks, config.rollouts) for config in chosen]
    for index, one in enumerate(parts):
        assert one not in parts[index + 1 :]
    # What a method does not consist of is the same for all: a comparison is of methods alone.
    shared = load([SHIPPED])
    for config in chosen:
        assert (config.optimizer, config.model, config.evaluation) == (
            shared.optimizer,
            shared.model,
            shared.evaluation,
        )
        assert config.rollouts.max_response_tokens == shared.rollouts.max_response_tokens
        assert replace(config, name=shared.name) == shared or config.name != "me"


def test_controllers_follow_their_rules_through_a_run_that_is_killed_and_resumed(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    overlay = SHIPPED.parent / "methods" / "controllers.yaml"
    overrides = (
        "rollouts.steps=5",
        "rollouts.max_response_tokens=16",  # so that the accuracy moves
        "checkpoints.every_n_steps=1",
        "ckpt_path=last",
        "rollouts.probe.samples=4",
        "callbacks.length_controller.init_args={start: 0.1, rate: 0.5, slack: 0.1, band: 0.5, "
        "window: 2, smoothing: 0.5}",
        "callbacks.entropy_controller.init_args={start: 0.1, rate: 0.5, fraction: 1.05, maximum: 1.0}",
    )

    def run(output: Path) -> list[dict]:
        folder = fit(small(overlay, tiny_model_dir, output, *overrides))
        return [row for row in rows(folder) if "loss/policy" in row]

    variances: list[float] = []

    def spied(*given: Any, **named: Any) -> float:
        variances.append(accuracy_variance(*given, **named))
        return variances[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ceeh.callbacks.controllers.accuracy_variance", spied)
        whole = run(tmp_path / "whole")
    accuracies = [row["probe/accuracy"] for row in whole]
    assert len(set(accuracies)) > 1
    beta, coefficient, best, anchor = 0.1, 0.1, 0.0, None
    mean, variance = accuracies[0], variances[0]
    for step, row in enumerate(whole):
        # What a step is logged with acts in the next one. The first two steps have no length penalty.
        mean, variance = (mean + accuracies[step]) / 2, (variance + variances[step]) / 2
        best = max(best, mean) if step > 0 else best
        if step > 1:
            recent = (accuracies[step - 1] + accuracies[step]) / 2
            error = min(max((recent - (best - 0.1 - sqrt(variance))) / 0.5, -1), 1)
            beta = min(beta * exp(0.5 * error), 1.0)
        else:
            assert row["signal/length_coefficient"] == (0 if step == 0 else pytest.approx(0.1))
        if row["loss/entropy_hard"] is not None:
            anchor = anchor or row["loss/entropy_hard"]
            error = 1 - row["loss/entropy_hard"] / (1.05 * anchor)
            coefficient = min(coefficient * exp(0.5 * min(max(error, -1), 1)), 1.0)
        if step > 0:
            assert row["signal/length_coefficient"] == pytest.approx(beta, rel=1e-5, abs=1e-7)
        assert row["signal/entropy_coefficient"] == pytest.approx(coefficient, rel=1e-4, abs=1e-7)
    names = ("signal/length_coefficient", "signal/entropy_coefficient", "loss/entropy_bonus")
    assert all(len({row[name] for row in whole}) > 2 for name in names)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, RewardFunction, "__call__", 4, die, after=False)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    resumed = run(tmp_path / "killed")
    assert [[row[name] for name in names] for row in resumed] == [
        [row[name] for name in names] for row in whole
    ]
