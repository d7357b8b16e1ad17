"""Length rewards of related papers that compare a response with a reference length of its question.

One pure function per paper, followed by the class that `objective.shaping.class_path` names. Axes: P
prompts, R rollout rows. Lengths are in tokens. An unfinished response counts as wrong.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.config.rules import NOT_NEGATIVE, UNIT, UNIT_BELOW_1, check
from ceeh.modules.advantages import group_sum
from ceeh.modules.shaping.base import Responses, ShapingInputs


def length_penalty(rows: Responses, *, alpha: float) -> Float[Tensor, " R"]:
    """-alpha sigmoid((L_i - mean_x) / std_x) where correct, else 0.

    mean_x and std_x (population) are over the lengths of the group's correct responses; equal
    lengths, or a single one, count as average: -alpha / 2.
    Arora & Zanette, https://arxiv.org/abs/2502.04463.
    """
    solved = rows.only(rows.correct)
    centered = solved.lengths - solved.mean(solved.lengths)[solved.group]
    std = solved.mean(centered.square()).sqrt()[solved.group]
    # Integer lengths that differ have a std above a thousandth of a token; below it is rounding.
    standardized = torch.where(std > 1e-3, centered / std, 0.0)
    penalty = torch.zeros_like(rows.lengths, dtype=torch.float64)
    penalty[rows.correct] = -alpha * standardized.sigmoid()
    return penalty


@dataclass(frozen=True, kw_only=True)
class LengthPenalty:
    """R_total = score + `length_penalty`, the main baseline.

    Raises ValueError for `alpha` outside [0, 1).
    """

    alpha: float = 0.1
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check(UNIT_BELOW_1, alpha=self.alpha)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        penalty = length_penalty(inputs, alpha=self.alpha)
        return inputs.scores + penalty.to(inputs.scores.dtype)


def history_aware_reward(
    correct: Bool[Tensor, " R"], lengths: Int[Tensor, " R"], shortest: Float[Tensor, " R"]
) -> Float[Tensor, " R"]:
    """max(-0.7, f) where correct, min(0, f) where wrong, f = cos(min(pi/2 L/h, pi)); 0 where h is NaN.

    h (`shortest`) is the question's shortest correct response of earlier visits. Up to h a correct
    response earns and a wrong one loses nothing; from 2 h on both lose the most.
    HAPO, section 3 and its released code, https://arxiv.org/abs/2505.11225.
    """
    angle = (math.pi / 2 * lengths / shortest.double()).clamp(max=math.pi)
    value = angle.cos()
    reward = torch.where(correct, value.clamp(min=-0.7), value.clamp(max=0.0))
    return torch.where(shortest.isnan(), 0.0, reward)


@dataclass(frozen=True, kw_only=True)
class HistoryAware:
    """HAPO: R_total = score + weight `history_aware_reward`.

    With the published weight 1 a correct response keeps at least 0.3 and a wrong one gets at most 0.
    Raises ValueError for `weight` outside [0, 1].
    """

    weight: float = 1.0
    optimal_length_signal: str = "optimal_length"

    def __post_init__(self) -> None:
        check(UNIT, weight=self.weight)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.optimal_length_signal,)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        shortest = inputs.signal(self.optimal_length_signal)
        reward = history_aware_reward(inputs.correct, inputs.lengths, shortest)
        return inputs.scores + self.weight * reward.to(inputs.scores.dtype)


def sample_optimal_distance(rows: Responses) -> Float[Tensor, " R"]:
    """|L_i - SOL|, SOL the group's shortest correct response, or its mean length if none is correct.

    ShorterBetter, section 3, https://arxiv.org/abs/2504.21370.
    """
    solved = rows.only(rows.correct)
    shortest = solved.least(solved.lengths)
    optimal = torch.where(shortest.isinf(), rows.mean(rows.lengths), shortest)
    return (rows.lengths - optimal[rows.group]).abs()


@dataclass(frozen=True, kw_only=True)
class SampleOptimalLength:
    """ShorterBetter: R_total = alpha score - beta `sample_optimal_distance`, published with 2 and 0.001.

    `beta` is per token: 0.001 suits responses of thousands of tokens. Raises ValueError for negative
    arguments.
    """

    alpha: float = 2.0
    beta: float = 0.001
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check(NOT_NEGATIVE, alpha=self.alpha, beta=self.beta)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        distance = sample_optimal_distance(inputs).to(inputs.scores.dtype)
        return self.alpha * inputs.scores - self.beta * distance


def adaptive_penalty(rows: Responses) -> Float[Tensor, " R"]:
    """max(p, 1/K) L_i, p the group's share of correct responses, K its size.

    A token costs more the easier the question is, in wrong responses too.
    ALP, section 3, https://arxiv.org/abs/2506.05256.
    """
    sizes = group_sum(torch.ones_like(rows.group), rows.group, rows.num_prompts)
    return torch.maximum(rows.mean(rows.correct), 1 / sizes)[rows.group] * rows.lengths


@dataclass(frozen=True, kw_only=True)
class AdaptivePenalty:
    """ALP: R_total = score - (beta / N) `adaptive_penalty`, N = `rollouts.max_response_tokens`.

    A response of N tokens to an always-solved question loses `beta`. Raises ValueError for a
    negative `beta`.
    """

    beta: float
    max_response_tokens: int
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check(NOT_NEGATIVE, beta=self.beta)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        penalty = adaptive_penalty(inputs).to(inputs.scores.dtype)
        return inputs.scores - self.beta / self.max_response_tokens * penalty


def min_max_score(rows: Responses) -> Float[Tensor, " R"]:
    """s where correct, min(0, s) where wrong, s = 0.5 - (L_i - min) / (max - min) over the whole group.

    0 where all responses of a group have one length. Kimi k1.5, section 2.3.3,
    https://arxiv.org/abs/2501.12599.
    """
    shortest = rows.least(rows.lengths)
    spread = (-rows.least(-rows.lengths) - shortest)[rows.group]
    score = 0.5 - (rows.lengths - shortest[rows.group]) / spread
    score = torch.where(spread > 0, score, 0.0)
    return torch.where(rows.correct, score, score.clamp(max=0.0))


@dataclass(frozen=True, kw_only=True)
class MinMaxLength:
    """Kimi k1.5: R_total = score + weight `min_max_score`; score alone for the `warmup` share of the run.

    The paper gives neither weight nor warm-up. Up to weight 1 a correct response is worth more than
    a wrong one. Raises ValueError for arguments out of range.
    """

    weight: float
    warmup: float = 0.0
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check(UNIT, weight=self.weight)
        check(UNIT_BELOW_1, warmup=self.warmup)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        if inputs.progress < self.warmup:
            return inputs.scores
        return inputs.scores + self.weight * min_max_score(inputs).to(inputs.scores.dtype)
