"""Length rewards with a target from the question's own correct responses: by hand and by a slow loop."""

import math
import statistics
from dataclasses import replace

import pytest
import torch

from ceeh.modules.shaping.adaptive_target import (
    CalibratedLength,
    EfficiencyBalance,
    ExperienceLimit,
    peak_accuracy_length,
)
from ceeh.modules.shaping.base import ShapingInputs
from tests.modules.shaping.shaping_inputs import NAN, inputs, ragged, rows


def peak(correct: list[int], lengths: list[int]) -> float:
    given = inputs(correct, lengths, [0] * len(lengths))
    return float(peak_accuracy_length(given)[0])


@pytest.mark.parametrize(
    ("correct", "lengths", "expected"),
    [
        ([1, 1], [30, 50], 30),  # all correct: the shortest
        ([0, 0], [30, 50], 50),  # none: the longest
        # Correct 20, 40: mean 30, variance 100. All 20, 40, 60, 80: mean 50, variance 500.
        # (100 * 50 - 500 * 30) / (100 - 500) = 25.
        ([1, 1, 0, 0], [20, 40, 60, 80], 25),
        # One correct of 60: variance 0, so its own length.
        ([0, 0, 1, 0], [20, 40, 60, 80], 60),
        # Correct 20, 80 spread more (900) than all (500): no maximum between, the shortest.
        ([1, 0, 0, 1], [20, 40, 60, 80], 20),
        # Equal variances: the longest where correct ones are shorter on average, else the shortest.
        ([1, 1, 0, 0], [20, 20, 20, 20], 20),
    ],
)
def test_peak_accuracy_length_by_hand(correct: list[int], lengths: list[int], expected: float):
    assert peak(correct, lengths) == pytest.approx(expected)


def test_smart_thinker_by_hand_keeps_every_correct_response_at_the_mean_or_above():
    given = inputs([1, 1, 0, 0, 1, 1], [20, 40, 60, 80, 30, 90], [0, 0, 0, 0, 1, 1])
    # Target 25: excess 0, 15, 0, 0; a = 0.5 / (15 - 3.75 + 1e-6) = 0.0444444: 1, 1/3, 0, 0, mean 1/3.
    # All correct: no length term.
    rewards = CalibratedLength()(given)
    expected = torch.tensor([1, 1 / 3, 0, 0, 1, 1])
    torch.testing.assert_close(rewards, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_smart_thinker_agrees_with_the_released_loop_in_any_row_order(seed: int):
    given = ragged(seed)
    rewards = CalibratedLength()(given)
    expected = given.scores.tolist()
    for prompt in range(given.num_prompts):
        at = [i for i, g in enumerate(given.group.tolist()) if g == prompt]
        lengths = [given.lengths[i].item() for i in at]
        right = [bool(given.correct[i]) for i in at]
        solved = [n for n, flag in zip(lengths, right, strict=True) if flag]
        if not solved or len(solved) == len(lengths):
            continue
        mean, mean_c = statistics.fmean(lengths), statistics.fmean(solved)
        var, var_c = statistics.pvariance(lengths), statistics.pvariance(solved)
        if abs(var_c - var) < 1e-6:
            best = max(lengths) if mean_c < mean else min(lengths)
        elif var_c > var:
            best = min(lengths)
        else:
            best = (var_c * mean - var * mean_c) / (var_c - var)
            best = max(min(lengths), min(max(lengths), best))
        excess = [
            abs(n - best) if flag and n > best else 0
            for n, flag in zip(lengths, right, strict=True)
        ]
        worst = max(e for e, flag in zip(excess, right, strict=True) if flag)
        scale = (1 - len(solved) / len(lengths)) / (worst - statistics.fmean(excess) + 1e-6)
        for i, e in zip(at, excess, strict=True):
            expected[i] -= scale * e
    torch.testing.assert_close(rewards, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    order = torch.randperm(len(given.group), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(CalibratedLength()(rows(given, order)), rewards[order])


def test_exp_think_by_hand():
    # L_x = 100, limit 130. Second question: its own shortest of this step, 80, beats the 90 before it:
    # 104. Third: nothing known before; its own 50 gives 65. Wrong ones stay.
    given = inputs(
        [1, 1, 0, 1, 1, 1, 1, 1],
        [130, 131, 999, 80, 104, 105, 50, 66],
        [0, 0, 0, 1, 1, 1, 2, 2],
        [100.0, 90.0, NAN],
    )
    assert ExperienceLimit()(given).tolist() == [1, 0, 0, 1, 1, 0, 1, 0]
    discounted = ExperienceLimit(discount=0.5)(given)
    assert discounted.tolist() == [1, 0.5, 0, 1, 1, 0.5, 1, 0.5]
    assert ExperienceLimit()(inputs([0, 0], [5, 9], [0, 0])).tolist() == [0, 0]


def balance(given: ShapingInputs, weight: float) -> torch.Tensor:
    signals = {"correctness_weight": torch.full((given.num_prompts,), weight)}
    return EfficiencyBalance(shortest=10, longest=100)(replace(given, signals=signals))


def test_lead_by_hand():
    given = inputs([1, 1, 0, 0], [20, 40, 60, 90], [0, 0, 0, 0])
    # L* = 30: efficiencies 2/3, 2/3, 0, max(-1, 1 - 2) = -1. Mean 1/12, squared deviations 49/144 twice,
    # 1/144, 169/144: std sqrt(268 / 144 / 3) = 0.787635. Correctness: +-0.5 / 0.577350.
    efficiency = [(e - 1 / 12) / (math.sqrt(268 / 432) + 1e-6) for e in (2 / 3, 2 / 3, 0, -1)]
    correctness = [c / (math.sqrt(1 / 3) + 1e-6) for c in (0.5, 0.5, -0.5, -0.5)]
    expected = [0.7 * c + 0.3 * e for c, e in zip(correctness, efficiency, strict=True)]
    torch.testing.assert_close(balance(given, 0.7), torch.tensor(expected))


def test_the_target_of_lead_stays_within_its_bounds():
    # Mean correct 4 tokens: 10. None correct: 100, so 50 tokens are halfway.
    given = inputs([1, 1, 0, 0], [3, 5, 50, 100], [0, 0, 1, 1])
    only_efficiency = balance(given, 0.0)
    # 0.3 and 0.5 of 10; 0.5 and 1 of 100: +-0.7071 each.
    expected = torch.tensor([-0.70710, 0.70710, -0.70710, 0.70710])
    torch.testing.assert_close(only_efficiency, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExperienceLimit(tolerance=-0.1), "tolerance must be a finite number"),
        (lambda: ExperienceLimit(discount=1.5), r"discount must be in \[0, 1\], got 1.5"),
        (lambda: EfficiencyBalance(shortest=9, longest=3), "1 <= shortest <= longest"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
