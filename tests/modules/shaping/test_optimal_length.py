"""Length rewards: CEEH's optimal-length penalty, Arora & Zanette's, none."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.config.component import Component
from ceeh.errors import ConfigError
from ceeh.modules.metrics import row_means, row_sums
from ceeh.modules.shaping.base import NoShaping, Shaping, ShapingInputs
from ceeh.modules.shaping.optimal_length import OptimalLengthPenalty, not_worse_than_history
from ceeh.modules.shaping.reference_length import LengthPenalty

NAN = float("nan")


def inputs(
    correct: list[int],
    lengths: list[int],
    group: list[int],
    *,
    optimal_length: list[float],
    accuracy_history: list[float],
) -> ShapingInputs:
    return ShapingInputs(
        scores=torch.tensor(correct).float(),
        correct=torch.tensor(correct).bool(),
        lengths=torch.tensor(lengths),
        finished=torch.ones(len(correct), dtype=torch.bool),
        group=torch.tensor(group),
        num_prompts=len(optimal_length),
        signals={
            "optimal_length": torch.tensor(optimal_length),
            "accuracy_history": torch.tensor(accuracy_history),
        },
        progress=0.0,
    )


def ragged(seed: int, num_prompts: int = 6) -> ShapingInputs:
    generator = torch.Generator().manual_seed(seed)

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=generator)

    sizes = torch.randint(1, 9, (num_prompts,), generator=generator)
    group = torch.arange(num_prompts).repeat_interleave(sizes)
    group = group[torch.randperm(len(group), generator=generator)]
    correct = uniform(len(group)) < 0.6
    optimal = torch.where(uniform(num_prompts) < 0.8, 10 + 90 * uniform(num_prompts), torch.nan)
    history = torch.where(uniform(num_prompts) < 0.8, uniform(num_prompts), torch.nan)
    return ShapingInputs(
        scores=torch.where(correct, 1.0, 0.25 * uniform(len(group))),
        correct=correct,
        lengths=torch.randint(1, 400, (len(group),), generator=generator),
        finished=uniform(len(group)) < 0.9,
        group=group,
        num_prompts=num_prompts,
        signals={"optimal_length": optimal, "accuracy_history": history},
        progress=0.0,
    )


def rows(given: ShapingInputs, order: Tensor) -> ShapingInputs:
    names = ("scores", "correct", "lengths", "finished", "group")
    return replace(given, **{name: getattr(given, name)[order] for name in names})


def reference_optimal_length(given: ShapingInputs, *, gate: bool) -> list[float]:
    group, correct = given.group.tolist(), given.correct.tolist()
    rewards = []
    for row, prompt in enumerate(group):
        mates = [c for c, other in zip(correct, group, strict=True) if other == prompt]
        anchor = given.signals["optimal_length"][prompt].item()
        history = given.signals["accuracy_history"][prompt].item()
        reward = given.scores[row].item()
        opened = not gate or math.isnan(history) or sum(mates) / len(mates) >= history
        if correct[row] and opened and not math.isnan(anchor):
            reward += max(-0.9, -0.1 * (given.lengths[row].item() - anchor) / anchor)
        rewards.append(reward)
    return rewards


def reference_length_penalty(given: ShapingInputs, alpha: float) -> list[float]:
    rewards = []
    every = list(
        zip(given.group.tolist(), given.correct.tolist(), given.lengths.tolist(), strict=True)
    )
    for row, (prompt, correct, length) in enumerate(every):
        reward = given.scores[row].item()
        if correct:
            solved = [n for other, right, n in every if other == prompt and right]
            mean = sum(solved) / len(solved)
            std = math.sqrt(sum((n - mean) ** 2 for n in solved) / len(solved))
            z = 0.0 if std == 0 else (length - mean) / std
            reward -= alpha / (1 + math.exp(-z))
        rewards.append(reward)
    return rewards


def test_optimal_length_literal_case():
    given = inputs(
        [1, 1, 1, 0],
        [100, 150, 1200, 500],
        [0, 0, 0, 0],
        optimal_length=[100.0],
        accuracy_history=[0.5],
    )
    # Acc = 0.75 >= 0.5. 1 - 0.1 * 0; 1 - 0.1 * 50/100 = 0.95; 1 - min(0.9, 0.1 * 11) = 0.1;
    # wrong: 0.
    torch.testing.assert_close(OptimalLengthPenalty()(given), torch.tensor([1.0, 0.95, 0.1, 0.0]))


def test_a_response_below_the_stored_optimum_earns_a_bonus():
    given = inputs([1], [80], [0], optimal_length=[100.0], accuracy_history=[1.0])
    # 1 - 0.1 * (80 - 100) / 100 = 1.02
    assert OptimalLengthPenalty()(given).item() == pytest.approx(1.02)


@pytest.mark.parametrize(
    ("history", "expected"),
    [(0.4, 0.9), (0.5, 0.9), (0.6, 1.0), (NAN, 0.9)],
    ids=["better", "equal", "worse", "first-visit"],
)
def test_gate_spares_a_prompt_that_went_worse_than_its_history(history: float, expected: float):
    # Acc = 1/2. The correct response is 200 long against 100: 1 - 0.1 where the gate is open.
    given = inputs([1, 0], [200, 50], [0, 0], optimal_length=[100.0], accuracy_history=[history])
    torch.testing.assert_close(OptimalLengthPenalty()(given), torch.tensor([expected, 0.0]))
    ungated = OptimalLengthPenalty(gate=False)(given)
    torch.testing.assert_close(ungated, torch.tensor([0.9, 0.0]))


@pytest.mark.parametrize("size", range(1, 17))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_its_history_opens_the_gate_for_every_fraction(size: int, dtype: torch.dtype):
    for solved in range(size + 1):
        history = solved / size
        for _ in range(50):
            history = 0.95 * history + 0.05 * (solved / size)
        accuracy = torch.tensor([solved / size], dtype=torch.float64)
        assert not_worse_than_history(accuracy, torch.tensor([history], dtype=dtype)).item()
        if solved:
            worse = torch.tensor([(solved - 1) / size], dtype=torch.float64)
            assert not not_worse_than_history(worse, torch.tensor([history], dtype=dtype)).item()


def test_gate_and_penalty_are_logged_as_means_over_the_rows_of_all_ranks():
    given = inputs(
        [1, 1, 0, 1],
        [100, 150, 500, 300],
        [0, 0, 0, 1],
        optimal_length=[100.0, 100.0],
        accuracy_history=[0.5, 2.0],
    )
    # Open on the three rows of prompt 0. Right responses: 0, -0.05 and, behind the gate, 0.
    numbers = OptimalLengthPenalty().metrics(given)
    whole = row_means([row_sums(numbers)])
    assert whole == pytest.approx({"gate_open": 0.75, "length_penalty": -0.05 / 3})
    # Of unequal shares of the rows, the second without a right response.
    shares = [{name: rows[part] for name, rows in numbers.items()} for part in ([0, 1, 3], [2])]
    assert row_means([row_sums(share) for share in shares]) == pytest.approx(whole)
    assert math.isnan(row_means([row_sums(shares[1])])["length_penalty"])


def test_a_prompt_never_solved_before_is_not_shaped():
    given = inputs([1, 1], [10, 900], [0, 0], optimal_length=[NAN], accuracy_history=[NAN])
    assert OptimalLengthPenalty()(given).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gate", [True, False])
def test_optimal_length_agrees_with_a_slow_loop(seed: int, gate: bool):
    given = ragged(seed)
    rewards = OptimalLengthPenalty(gate=gate)(given)
    torch.testing.assert_close(rewards, torch.tensor(reference_optimal_length(given, gate=gate)))


def test_length_penalty_literal_case():
    given = inputs(
        [1, 1, 0, 1],
        [100, 300, 900, 70],
        [0, 0, 0, 1],
        optimal_length=[NAN, NAN],
        accuracy_history=[NAN, NAN],
    )
    # Prompt 0: mean 200, std 100 of its correct ones, z = -1 and 1; sigmoid 0.26894 and 0.73106.
    # 1 - 0.2 * 0.26894 = 0.94621; 1 - 0.2 * 0.73106 = 0.85379. Prompt 1: one response, 1 - 0.2 / 2.
    expected = torch.tensor([0.946212, 0.853788, 0.0, 0.9])
    torch.testing.assert_close(LengthPenalty(alpha=0.2)(given), expected)


@pytest.mark.parametrize("seed", range(4))
def test_length_penalty_agrees_with_a_slow_loop(seed: int):
    given = ragged(seed)
    rewards = LengthPenalty(alpha=0.4)(given)
    torch.testing.assert_close(rewards, torch.tensor(reference_length_penalty(given, 0.4)))


SHAPINGS: list[Shaping] = [NoShaping(), OptimalLengthPenalty(), LengthPenalty(alpha=0.4)]


@pytest.mark.parametrize("shaping", SHAPINGS, ids=lambda shaping: type(shaping).__name__)
def test_row_order_does_not_matter_and_wrong_responses_keep_their_score(shaping: Shaping):
    given = ragged(11)
    order = torch.randperm(len(given.group), generator=torch.Generator().manual_seed(0))
    rewards = shaping(given)
    torch.testing.assert_close(shaping(rows(given, order)), rewards[order])
    assert torch.equal(rewards[~given.correct], given.scores[~given.correct])
    assert rewards.dtype == torch.float32


def test_only_shapings_move_correct_rewards():
    given = ragged(11)
    moved = [bool((shaping(given) != given.scores).any()) for shaping in SHAPINGS]
    assert moved == [False, True, True]


def test_nobody_correct_leaves_all_scores():
    given = inputs([0, 0], [5, 9], [0, 0], optimal_length=[7.0], accuracy_history=[0.0])
    for shaping in SHAPINGS:
        assert shaping(given).tolist() == [0.0, 0.0]


def test_reads_names_exactly_the_signals_that_are_looked_up():
    assert NoShaping().reads == LengthPenalty().reads == ()
    assert OptimalLengthPenalty().reads == ("optimal_length", "accuracy_history")
    assert OptimalLengthPenalty(gate=False).reads == ("optimal_length",)
    given = ragged(0)
    renamed = OptimalLengthPenalty(optimal_length_signal="target", history_signal="past")
    assert renamed.reads == ("target", "past")
    signals = {"target": given.signals["optimal_length"], "past": given.signals["accuracy_history"]}
    torch.testing.assert_close(
        renamed(replace(given, signals=signals)), OptimalLengthPenalty()(given)
    )


def test_a_missing_signal_is_named_with_the_cure():
    given = replace(ragged(0), signals={"hard": torch.zeros(6)})
    with pytest.raises(ValueError, match=r"'optimal_length', which no callback wrote.*: hard"):
        OptimalLengthPenalty()(given)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("OptimalLengthPenalty", {"beta": -0.1}, "beta must be .* got -0.1"),
        ("OptimalLengthPenalty", {"beta": NAN}, "beta must be a finite number"),
        ("OptimalLengthPenalty", {"floor": 1.5}, r"floor must be in \(0, 1\], got 1.5"),
        ("OptimalLengthPenalty", {"gate": "no"}, "gate"),
        ("LengthPenalty", {"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_their_place(
    name: str, arguments: dict, message: str
):
    component = Component(f"ceeh.modules.shaping.{name}", arguments)
    with pytest.raises(ConfigError, match=f"(?s)objective.shaping .*{message}"):
        component.build("objective.shaping")
