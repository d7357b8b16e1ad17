"""Rewards of related papers: each by hand, by a slow loop, and whatever the order of rows."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.modules.shaping.base import Shaping, ShapingInputs
from ceeh.modules.shaping.reference_length import (
    AdaptivePenalty,
    HistoryAware,
    MinMaxLength,
    SampleOptimalLength,
)
from ceeh.modules.shaping.token_limits import LengthLimit, SoftOverlong, TargetLength
from tests.modules.shaping.test_optimal_length import NAN, inputs, ragged, rows


def check(shaping: Shaping, rewarded: ShapingInputs, expected: list[float]) -> None:
    torch.testing.assert_close(shaping(rewarded), torch.tensor(expected))


@pytest.mark.parametrize(
    ("shaping", "case", "expected"),
    [
        # h = 100. Correct: 1 + cos(pi/4); 1 + cos(pi/2); 1 + max(-0.7, cos(3 pi/4) = -0.707); 1 - 0.7.
        # Wrong: min(0, cos(pi/4)); cos(3 pi/4); cos(pi). The second question has no h.
        (
            HistoryAware(),
            inputs([1, 1, 1, 1, 0, 0, 0, 1], [50, 100, 150, 300, 50, 150, 250, 900],
                   [0] * 7 + [1], [100.0, NAN]),
            [1.707107, 1.0, 0.3, 0.3, 0.0, -0.707107, -1.0, 1.0],
        ),
        # SOL = 100: 2; 2 - 0.001 * 50; -0.001 * 20. None correct, mean 50: -0.001 * 10 each.
        (
            SampleOptimalLength(),
            inputs([1, 1, 0, 0, 0], [100, 150, 80, 40, 60], [0, 0, 0, 1, 1]),
            [2.0, 1.95, -0.02, -0.01, -0.01],
        ),
        # beta / N = 0.0025. Three of four correct: 1 - 0.0025 * 0.75 * 100; twice 200; wrong:
        # -0.0025 * 0.75 * 200. None of two: max(0, 1/2): -0.0025 * 0.5 * 40; 0.
        (
            AdaptivePenalty(beta=0.5, max_response_tokens=200),
            inputs([1, 1, 1, 0, 0, 0], [100, 200, 200, 200, 40, 0], [0, 0, 0, 0, 1, 1]),
            [0.8125, 0.625, 0.625, -0.375, -0.05, 0.0],
        ),
        # 100 to 300: s = 0.5, 0.25, 0, -0.5; a wrong one gets no bonus. Equal lengths: s = 0.
        (
            MinMaxLength(weight=0.4),
            inputs([1, 0, 1, 0, 1, 0], [100, 150, 200, 300, 70, 70], [0, 0, 0, 0, 1, 1]),
            [1.2, 0.0, 1.0, -0.2, 1.0, 0.0],
        ),
        # Within the limit, beyond it, wrong, within it but truncated.
        (
            LengthLimit(limits=[64]),
            replace(inputs([1, 1, 0, 1], [64, 65, 10, 64], [0] * 4),
                    finished=torch.tensor([True, True, True, False])),
            [1.0, 0.0, 0.0, 0.0],
        ),
        # 200 with a margin of 40. Correct 1, wrong -1; less 0, (160 - 170) / 40, 1, 1 beyond 200.
        (
            SoftOverlong(margin=40, max_response_tokens=200),
            inputs([1, 1, 0, 0, 0], [160, 170, 160, 200, 230], [0] * 5),
            [1.0, 0.75, -1.0, -2.0, -2.0],
        ),
        # Target 100: correct within it 1 + 0.5, correct beyond it 1, wrong -0.5 however short.
        (
            TargetLength(target_signal="optimal_length"),
            inputs([1, 1, 0], [100, 101, 50], [0, 0, 0], [100.0]),
            [1.5, 1.0, -0.5],
        ),
    ],
    ids=["hapo", "shorter-better", "alp", "kimi", "limit", "dapo", "laser-d"],
)  # fmt: skip
def test_literal_case(shaping: Shaping, case: ShapingInputs, expected: list[float]):
    check(shaping, case, expected)


def test_kimi_has_no_length_term_before_its_warm_up_is_over():
    case, shaping = inputs([1, 1], [100, 300], [0, 0]), MinMaxLength(weight=0.4, warmup=0.25)
    check(shaping, replace(case, progress=0.24), [1.0, 1.0])
    check(shaping, replace(case, progress=0.25), [1.2, 0.8])


def test_limits_tighten_over_equal_shares_of_the_run():
    shaping = LengthLimit(limits=[128, 96, 64])
    limits = [shaping.limit(step / 9) for step in range(9)]
    assert limits == [128, 128, 128, 96, 96, 96, 64, 64, 64]
    check(shaping, replace(inputs([1], [100], [0]), progress=0.4), [0.0])


def reference(name: str, case: ShapingInputs) -> list[float]:
    """A python loop over rows, formulas written out."""
    columns = (case.group, case.correct, case.lengths, case.scores, case.finished)
    table = list(zip(*map(Tensor.tolist, columns), strict=True))
    result = []
    for prompt, correct, length, score, finished in table:
        mates = [(right, tokens) for other, right, tokens, *_ in table if other == prompt]
        solved = [tokens for right, tokens in mates if right]
        every = [tokens for _, tokens in mates]
        history = case.signals["optimal_length"][prompt].item()
        reward = score
        if name == "HistoryAware" and not math.isnan(history):
            value = math.cos(min(math.pi / 2 * length / history, math.pi))
            reward += max(-0.7, value) if correct else min(0.0, value)
        elif name == "SampleOptimalLength":
            optimal = min(solved) if solved else sum(every) / len(every)
            reward = 2 * score - 0.001 * abs(length - optimal)
        elif name == "AdaptivePenalty":
            reward -= 0.5 / 400 * max(len(solved) / len(mates), 1 / len(mates)) * length
        elif name == "MinMaxLength" and max(every) > min(every):
            value = 0.5 - (length - min(every)) / (max(every) - min(every))
            reward += 0.4 * (value if correct else min(0.0, value))
        elif name == "LengthLimit":
            reward = score if finished and length <= 200 else 0.0
        elif name == "SoftOverlong":
            over = length - 300
            reward = 2 * score - 1 - (0.0 if over <= 0 else 1.0 if over >= 100 else over / 100)
        elif name == "TargetLength":
            reward = score - 0.5 * (1 - score) + (0.5 if correct and length <= history else 0.0)
        result.append(reward)
    return result


SHAPINGS: list[Shaping] = [
    HistoryAware(),
    SampleOptimalLength(),
    AdaptivePenalty(beta=0.5, max_response_tokens=400),
    MinMaxLength(weight=0.4),
    LengthLimit(limits=[200]),
    SoftOverlong(margin=100, max_response_tokens=400),
    TargetLength(target_signal="optimal_length"),
]
NAMES = [type(shaping).__name__ for shaping in SHAPINGS]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shaping", SHAPINGS, ids=NAMES)
def test_agrees_with_a_slow_loop_in_any_row_order(shaping: Shaping, seed: int):
    case = ragged(seed)
    rewards = shaping(case)
    assert rewards.dtype == torch.float32
    assert bool((rewards != case.scores).any())
    torch.testing.assert_close(rewards, torch.tensor(reference(type(shaping).__name__, case)))
    order = torch.randperm(len(case.group), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shaping(rows(case, order)), rewards[order])


@pytest.mark.parametrize("shaping", SHAPINGS, ids=NAMES)
def test_a_correct_response_is_never_worth_less_for_being_shorter_than_all(shaping: Shaping):
    rewards = shaping(inputs([1, 1, 0], [60, 250, 250], [0, 0, 0], [80.0]))
    assert rewards[0] > rewards[2]
    assert rewards[0] > rewards[1] or isinstance(shaping, SoftOverlong)


def test_reads_names_the_signals_that_are_looked_up():
    assert HistoryAware().reads == ("optimal_length",)
    assert TargetLength().reads == ("target_length",)
    for shaping in SHAPINGS[1:-1]:
        assert shaping.reads == ()
        shaping(replace(ragged(0), signals={}))
