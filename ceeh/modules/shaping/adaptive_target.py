"""Length rewards of related papers that set each question's target by its own correct responses.

One pure function per rule, followed by the class that `objective.shaping.class_path` names. Axes: P
prompts, R rollout rows. Lengths are in tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.config.rules import NOT_NEGATIVE, UNIT, check
from ceeh.modules.advantages import group_advantages
from ceeh.modules.shaping.base import Responses, ShapingInputs


def within_experience(
    lengths: Int[Tensor, " R"], shortest: Float[Tensor, " R"], tolerance: float
) -> Bool[Tensor, " R"]:
    """L_i <= floor((1 + tolerance) L_x). ExpThink's released code, https://arxiv.org/abs/2605.07501."""
    return lengths <= ((1 + tolerance) * shortest).floor()


@dataclass(frozen=True, kw_only=True)
class ExperienceLimit:
    """ExpThink: a correct response beyond `within_experience` keeps `discount` of its score.

    L_x is the question's shortest correct response, this step's included; tolerance 0.3 and discount 0 are
    the released script's. Raises ValueError for arguments out of range.
    """

    tolerance: float = 0.3
    discount: float = 0.0
    optimal_length_signal: str = "optimal_length"

    def __post_init__(self) -> None:
        check(NOT_NEGATIVE, tolerance=self.tolerance)
        check(UNIT, discount=self.discount)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.optimal_length_signal,)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        solved = inputs.only(inputs.correct)
        own = solved.least(solved.lengths)[inputs.group]
        shortest = own.fmin(inputs.signal(self.optimal_length_signal).double())
        kept = within_experience(inputs.lengths, shortest, self.tolerance)
        return torch.where(inputs.correct & ~kept, self.discount * inputs.scores, inputs.scores)


def peak_accuracy_length(rows: Responses) -> Float[Tensor, " P"]:
    """(s_c m - s m_c) / (s_c - s), within the group's lengths: where a correct length is likeliest.

    m and s are mean and variance (population) of the group's lengths, m_c and s_c those of its correct
    responses, both taken as Gaussian. Without a maximum between, s_c >= s: the shortest; or, of equal
    variances, the longest where m_c < m. All correct: the shortest; none: the longest. SmartThinker and its
    released code, https://arxiv.org/abs/2603.08000.
    """

    def moments(of: Responses) -> tuple[Tensor, Tensor]:
        mean = of.mean(of.lengths)
        return mean, of.mean((of.lengths - mean[of.group]).square())

    mean, variance = moments(rows)
    mean_c, variance_c = moments(rows.only(rows.correct))
    shortest, longest = rows.least(rows.lengths), -rows.least(-rows.lengths)
    solved = rows.mean(rows.correct)
    difference = variance_c - variance
    peak = (variance_c * mean - variance * mean_c) / difference
    peak = torch.where(difference > 0, shortest, peak.clamp(shortest, longest))
    equal = torch.where(mean_c < mean, longest, shortest)
    peak = torch.where(difference.abs() < 1e-6, equal, peak)
    return torch.where(solved == 1, shortest, torch.where(solved == 0, longest, peak))


def calibrated_penalty(rows: Responses) -> Float[Tensor, " R"]:
    """a e_i, with e_i = max(0, L_i - `peak_accuracy_length`) where correct, else 0.

    a = (1 - Acc) / (max e - mean e + 1e-6) over the group: then no correct response is below the group's
    mean reward. 0 for groups that are all correct or all wrong. SmartThinker,
    https://arxiv.org/abs/2603.08000, and its released code.
    """
    target = peak_accuracy_length(rows)[rows.group]
    excess = torch.where(rows.correct, (rows.lengths - target).clamp(min=0), 0.0)
    solved = rows.mean(rows.correct)
    scale = (1 - solved) / (-rows.least(-excess) - rows.mean(excess) + 1e-6)
    return torch.where((solved > 0) & (solved < 1), scale, 0.0)[rows.group] * excess


@dataclass(frozen=True, kw_only=True)
class CalibratedLength:
    """SmartThinker: R_total = score - `calibrated_penalty`."""

    reads: ClassVar[tuple[str, ...]] = ()

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        return inputs.scores - calibrated_penalty(inputs).to(inputs.scores.dtype)


def symmetric_efficiency(
    rows: Responses, *, shortest: float, longest: float
) -> Float[Tensor, " R"]:
    """max(-1, 1 - |L_i - L*| / L*), L* the mean length of the group's correct responses.

    L* is kept within [`shortest`, `longest`], and is `longest` without a correct response. LEAD and its
    released code, https://arxiv.org/abs/2605.09806.
    """
    solved = rows.only(rows.correct)
    mean = solved.mean(solved.lengths)
    target = mean.nan_to_num(longest).clamp(shortest, longest)[rows.group]
    return (1 - (rows.lengths - target).abs() / target).clamp(min=-1)


@dataclass(frozen=True, kw_only=True)
class EfficiencyBalance:
    """LEAD: w n(correct) + (1 - w) n(`symmetric_efficiency`), n the group's (R - mean) / std.

    Both rewards are normalized before they are added, so the result is an advantage already: use
    `objective.advantage: token_whitened`, as LEAD does. w is the signal `correctness_weight` of
    `PotentialScaledWeight`. Raises ValueError unless 1 <= shortest <= longest tokens.
    """

    shortest: int
    longest: int
    weight_signal: str = "correctness_weight"

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                "1 <= shortest <= longest tokens are needed, got "
                f"shortest {self.shortest}, longest {self.longest}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.weight_signal,)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        efficiency = symmetric_efficiency(inputs, shortest=self.shortest, longest=self.longest)
        correctness, efficiency = (
            group_advantages(
                rewards.double(),
                inputs.group,
                inputs.num_prompts,
                kind="group_std",
                lengths=inputs.lengths,
            )
            for rewards in (inputs.scores, efficiency)
        )
        weight = inputs.signal(self.weight_signal)
        return (weight * correctness + (1 - weight) * efficiency).to(inputs.scores.dtype)
