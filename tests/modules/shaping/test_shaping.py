"""What all length rewards share: a slow loop, the order of rows, the signals they read, refused arguments."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.config.component import Component
from ceeh.errors import ConfigError
from ceeh.modules.shaping.base import NoShaping, Shaping, ShapingInputs
from ceeh.modules.shaping.optimal_length import BudgetPenalty, OptimalLengthPenalty
from ceeh.modules.shaping.reference_length import (
    AdaptivePenalty,
    HistoryAware,
    LengthPenalty,
    MinMaxLength,
    SampleOptimalLength,
)
from ceeh.modules.shaping.token_limits import LengthLimit, SoftOverlong, TargetLength
from tests.modules.shaping.shaping_inputs import NAN, inputs, ragged, rows


def reference(shaping: Shaping, given: ShapingInputs) -> list[float]:
    """A python loop over rows, formulas written out."""
    columns = (
        given.group, given.correct, given.lengths, given.scores, given.finished, given.answered
    )  # fmt: skip
    table = list(zip(*map(Tensor.tolist, columns), strict=True))
    return [reference_row(shaping, given, table, row) for row in table]


def reference_row(shaping: Shaping, given: ShapingInputs, table: list, row: tuple) -> float:
    prompt, correct, length, score, finished, answered = row
    every = [tokens for other, _, tokens, *_ in table if other == prompt]
    solved = [tokens for other, right, tokens, *_ in table if other == prompt and right]
    accuracy = len(solved) / len(every)
    optimal = given.signals["optimal_length"][prompt].item()
    if isinstance(shaping, OptimalLengthPenalty):
        worse = accuracy < given.signals["accuracy_history"][prompt].item()
        if correct and not (shaping.gate and worse) and not math.isnan(optimal):
            score += max(-0.9, -0.1 * (length - optimal) / optimal)
    elif isinstance(shaping, LengthPenalty):
        if correct:
            mean = sum(solved) / len(solved)
            std = math.sqrt(sum((n - mean) ** 2 for n in solved) / len(solved))
            z = 0.0 if std == 0 else (length - mean) / std
            score -= 0.4 / (1 + math.exp(-z))
    elif isinstance(shaping, HistoryAware):
        if not math.isnan(optimal):
            value = math.cos(min(math.pi / 2 * length / optimal, math.pi))
            score += max(-0.7, value) if correct else min(0.0, value)
    elif isinstance(shaping, SampleOptimalLength):
        shortest = min(solved) if solved else sum(every) / len(every)
        score = 2 * score - 0.001 * abs(length - shortest)
    elif isinstance(shaping, AdaptivePenalty):
        score -= 0.5 / 400 * max(accuracy, 1 / len(every)) * length
    elif isinstance(shaping, MinMaxLength):
        if max(every) > min(every):
            value = 0.5 - (length - min(every)) / (max(every) - min(every))
            score += 0.4 * (value if correct else min(0.0, value))
    elif isinstance(shaping, LengthLimit):
        score = score if finished and length <= 200 else 0.0
    elif isinstance(shaping, SoftOverlong):
        score = 2 * score - 1 - min(max((length - 300) / 100, 0.0), 1.0)
    elif isinstance(shaping, TargetLength):
        wrong = 0.5 if answered else 1.0
        score = score - wrong * (1 - score) + (0.5 if correct and length <= optimal else 0.0)
    elif isinstance(shaping, BudgetPenalty) and correct and not math.isnan(optimal):
        score -= min(0.9, 0.3 * max(0.0, length / (2 * optimal) - 1))
    return score


SHAPINGS: list[Shaping] = [
    OptimalLengthPenalty(),
    OptimalLengthPenalty(gate=False),
    LengthPenalty(alpha=0.4),
    BudgetPenalty(beta=0.3, kappa=2.0),
    HistoryAware(),
    SampleOptimalLength(),
    AdaptivePenalty(beta=0.5, max_response_tokens=400),
    MinMaxLength(weight=0.4),
    LengthLimit(limits=[200]),
    SoftOverlong(margin=100, max_response_tokens=400),
    TargetLength(target_signal="optimal_length"),
]
each_shaping = pytest.mark.parametrize("shaping", SHAPINGS, ids=lambda each: type(each).__name__)


@pytest.mark.parametrize("seed", range(4))
@each_shaping
def test_agrees_with_a_slow_loop_in_any_row_order(shaping: Shaping, seed: int):
    given = ragged(seed)
    rewards = shaping(given)
    torch.testing.assert_close(rewards, torch.tensor(reference(shaping, given)))
    assert rewards.dtype == torch.float32
    assert (rewards != given.scores).any()
    order = torch.randperm(len(given.group), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shaping(rows(given, order)), rewards[order])


@each_shaping
def test_a_correct_response_is_never_worth_less_for_being_shorter_than_all(shaping: Shaping):
    rewards = shaping(inputs([1, 1, 0], [60, 250, 250], [0, 0, 0], [80.0]))
    assert rewards[0] > rewards[2]
    assert rewards[0] > rewards[1] or isinstance(shaping, SoftOverlong)


def test_scores_stay_without_shaping_and_without_a_correct_response():
    given = ragged(11)
    assert torch.equal(NoShaping()(given), given.scores)
    for shaping in SHAPINGS[:3]:
        assert shaping(inputs([0, 0], [5, 9], [0, 0], [7.0], [0.0])).tolist() == [0.0, 0.0]


def test_reads_names_exactly_the_signals_that_are_looked_up():
    given = ragged(0)
    signals = given.signals | {"target_length": given.signals["optimal_length"]}
    for shaping in (NoShaping(), *SHAPINGS, TargetLength()):
        shaping(replace(given, signals={name: signals[name] for name in shaping.reads}))
        for name in shaping.reads:
            with pytest.raises(ValueError, match=f"'{name}', which no callback wrote"):
                shaping(replace(given, signals={n: v for n, v in signals.items() if n != name}))
    renamed = OptimalLengthPenalty(optimal_length_signal="target", history_signal="past")
    assert renamed.reads == ("target", "past")


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
        ("OptimalLengthPenalty", {"strict_gate": 1}, "strict_gate"),
        ("OptimalLengthPenalty", {"floor_on": "beta"}, "floor_on must be .*scaled, unscaled"),
        ("BudgetPenalty", {"kappa": -1.0}, "kappa must be a finite number"),
        ("LengthPenalty", {"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ("HistoryAware", {"weight": 1.5}, r"weight must be in \[0, 1\], got 1.5"),
        ("SampleOptimalLength", {"beta": -1.0}, "beta must be a finite number"),
        ("AdaptivePenalty", {"beta": NAN}, "beta must be a finite number"),
        ("AdaptivePenalty", {}, "lacks beta"),
        ("MinMaxLength", {"weight": 2.0}, r"weight must be in \[0, 1\], got 2.0"),
        ("MinMaxLength", {"weight": 0.4, "warmup": 1.0}, r"warmup .* got 1.0"),
        ("LengthLimit", {"limits": []}, r"limits must be one or more .* got \[\]"),
        ("SoftOverlong", {"margin": 300}, r"max_response_tokens \(224\), got 300"),
        ("TargetLength", {"bonus": -0.5}, "bonus must be a finite number"),
    ],
)
def test_arguments_out_of_range_are_refused_at_their_place(
    name: str, arguments: dict, message: str
):
    component = Component(f"ceeh.modules.shaping.{name}", arguments)
    with pytest.raises(ConfigError, match=f"(?s)objective.shaping.*{message}"):
        component.build("objective.shaping", max_response_tokens=224)
