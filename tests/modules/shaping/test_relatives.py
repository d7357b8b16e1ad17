"""Rewards of the relatives: each by hand, by a slow loop, and whatever the order of rows."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.config.component import Component
from ceeh.errors import ConfigError
from ceeh.modules.shaping.base import Shaping, ShapingInputs
from ceeh.modules.shaping.reference_length import (
    AdaptivePenalty,
    HistoryAware,
    MinMaxLength,
    SampleOptimalLength,
)
from ceeh.modules.shaping.token_limits import LengthLimit, SoftOverlong, TargetLength
from tests.modules.shaping.test_optimal_length import NAN, inputs, ragged, rows


def given(
    correct: list[int], lengths: list[int], group: list[int], optimal: list[float] | None = None
) -> ShapingInputs:
    prompts = max(group) + 1
    return inputs(
        correct,
        lengths,
        group,
        optimal_length=optimal or [NAN] * prompts,
        accuracy_history=[NAN] * prompts,
    )


def check(shaping: Shaping, rewarded: ShapingInputs, expected: list[float]) -> None:
    torch.testing.assert_close(shaping(rewarded), torch.tensor(expected))


def test_hapo_literal_case():
    # h = 100. Right: 1 + cos(pi/4); 1 + cos(pi/2); 1 + max(-0.7, cos(3 pi/4) = -0.707); 1 - 0.7.
    # Wrong: min(0, cos(pi/4)); cos(3 pi/4); cos(pi). The second question has no h.
    case = given(
        [1, 1, 1, 1, 0, 0, 0, 1],
        [50, 100, 150, 300, 50, 150, 250, 900],
        [0] * 7 + [1],
        [100.0, NAN],
    )
    check(HistoryAware(), case, [1.707107, 1.0, 0.3, 0.3, 0.0, -0.707107, -1.0, 1.0])


def test_shorter_better_literal_case():
    # SOL = 100: 2; 2 - 0.001 * 50; -0.001 * 20. None right, mean 50: -0.001 * 10 each.
    case = given([1, 1, 0, 0, 0], [100, 150, 80, 40, 60], [0, 0, 0, 1, 1])
    check(SampleOptimalLength(), case, [2.0, 1.95, -0.02, -0.01, -0.01])


def test_alp_literal_case():
    # beta / N = 0.0025. Three of four right: 1 - 0.0025 * 0.75 * 100; twice 200; wrong: -0.0025 *
    # 0.75 * 200. None of two: max(0, 1/2): -0.0025 * 0.5 * 40; 0.
    case = given([1, 1, 1, 0, 0, 0], [100, 200, 200, 200, 40, 0], [0, 0, 0, 0, 1, 1])
    shaping = AdaptivePenalty(beta=0.5, max_response_tokens=200)
    check(shaping, case, [0.8125, 0.625, 0.625, -0.375, -0.05, 0.0])


def test_kimi_literal_case():
    # 100 to 300: s = 0.5, 0.25, 0, -0.5; a wrong one gets no bonus. Equal lengths: s = 0.
    case = given([1, 0, 1, 0, 1, 0], [100, 150, 200, 300, 70, 70], [0, 0, 0, 0, 1, 1])
    check(MinMaxLength(weight=0.4), case, [1.2, 0.0, 1.0, -0.2, 1.0, 0.0])


def test_kimi_has_no_length_term_before_its_warm_up_is_over():
    case = given([1, 1], [100, 300], [0, 0])
    shaping = MinMaxLength(weight=0.4, warmup=0.25)
    check(shaping, replace(case, progress=0.24), [1.0, 1.0])
    check(shaping, replace(case, progress=0.25), [1.2, 0.8])


def test_a_limit_pays_only_what_ends_within_it():
    case = given([1, 1, 0, 1], [64, 65, 10, 64], [0] * 4)
    case = replace(case, finished=torch.tensor([True, True, True, False]))
    check(LengthLimit(limits=[64]), case, [1.0, 0.0, 0.0, 0.0])


def test_limits_tighten_over_equal_shares_of_the_run():
    shaping = LengthLimit(limits=[128, 96, 64])
    steps = 9
    limits = [shaping.limit(step / steps) for step in range(steps)]
    assert limits == [128, 128, 128, 96, 96, 96, 64, 64, 64]
    check(shaping, replace(given([1], [100], [0]), progress=0.4), [0.0])


def test_dapo_literal_case():
    # 200 with a margin of 40. Right 1, wrong -1; less 0, (160 - 170) / 40, 1, 1 beyond the limit.
    case = given([1, 1, 0, 0, 0], [160, 170, 160, 200, 230], [0] * 5)
    shaping = SoftOverlong(margin=40, max_response_tokens=200)
    check(shaping, case, [1.0, 0.75, -1.0, -2.0, -2.0])


def test_laser_d_literal_case():
    # Target 100: right within it 1 + 0.5, right beyond it 1, wrong -0.5 however short.
    case = given([1, 1, 0], [100, 101, 50], [0, 0, 0])
    case = replace(case, signals={"target_length": torch.tensor([100.0])})
    check(TargetLength(), case, [1.5, 1.0, -0.5])


def reference(name: str, case: ShapingInputs) -> list[float]:
    """A python loop over rows, formulas written out."""
    result = []
    table = list(
        zip(
            case.group.tolist(),
            case.correct.tolist(),
            case.lengths.tolist(),
            case.scores.tolist(),
            case.finished.tolist(),
            strict=True,
        )
    )
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


def name_of(shaping: Shaping) -> str:
    return type(shaping).__name__


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shaping", SHAPINGS, ids=name_of)
def test_agrees_with_a_slow_loop(shaping: Shaping, seed: int):
    case = ragged(seed)
    rewards = shaping(case)
    assert rewards.dtype == torch.float32
    assert bool((rewards != case.scores).any())
    torch.testing.assert_close(rewards, torch.tensor(reference(name_of(shaping), case)))


@pytest.mark.parametrize("shaping", SHAPINGS, ids=name_of)
def test_row_order_does_not_matter(shaping: Shaping):
    case = ragged(11)
    order: Tensor = torch.randperm(len(case.group), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shaping(rows(case, order)), shaping(case)[order])


@pytest.mark.parametrize("shaping", SHAPINGS, ids=name_of)
def test_a_right_response_is_never_worth_less_for_being_shorter_than_all(shaping: Shaping):
    case = given([1, 1, 0], [60, 250, 250], [0, 0, 0], [80.0])
    rewards = shaping(case)
    assert rewards[0] > rewards[2]
    assert rewards[0] > rewards[1] or name_of(shaping) == "SoftOverlong"


def test_reads_names_the_signals_that_are_looked_up():
    assert HistoryAware().reads == ("optimal_length",)
    assert TargetLength().reads == ("target_length",)
    for shaping in SHAPINGS[1:-1]:
        assert shaping.reads == ()
        shaping(replace(ragged(0), signals={}))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("shaping.HistoryAware", {"weight": 1.5}, r"weight must be in \[0, 1\], got 1.5"),
        ("shaping.SampleOptimalLength", {"beta": -1.0}, "beta must be a finite number"),
        ("shaping.AdaptivePenalty", {"beta": NAN}, "beta must be a finite number"),
        ("shaping.AdaptivePenalty", {}, "lacks beta"),
        ("shaping.MinMaxLength", {"weight": 2.0}, r"weight must be in \[0, 1\], got 2.0"),
        ("shaping.MinMaxLength", {"weight": 0.4, "warmup": 1.0}, r"warmup .* got 1.0"),
        ("shaping.LengthLimit", {"limits": []}, r"limits must be one or more .* got \[\]"),
        ("shaping.SoftOverlong", {"margin": 300}, r"max_response_tokens \(224\), got 300"),
        ("shaping.TargetLength", {"bonus": -0.5}, "bonus must be a finite number"),
    ],
)
def test_arguments_out_of_range_are_refused_at_their_place(
    name: str, arguments: dict, message: str
):
    component = Component(f"ceeh.modules.{name}", arguments)
    with pytest.raises(ConfigError, match=f"(?s)objective.shaping.*{message}"):
        component.build("objective.shaping", max_response_tokens=224)
