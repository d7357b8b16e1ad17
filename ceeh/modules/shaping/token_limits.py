"""Length rewards of related papers that compare a response with a limit or a target in tokens.

One pure function per paper, followed by the class that `objective.shaping.class_path` names.
Axis: R rollout rows. Lengths are in tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.config.rules import NOT_NEGATIVE, check
from ceeh.modules.shaping.base import ShapingInputs


def within_limit(
    lengths: Int[Tensor, " R"], finished: Bool[Tensor, " R"], limit: int
) -> Bool[Tensor, " R"]:
    """Whether a response finished within `limit` tokens; one that a limit would truncate earns nothing.

    ThinkPrune, section 3, https://arxiv.org/abs/2504.01296; DLER, section 3,
    https://arxiv.org/abs/2510.15110.
    """
    return finished & (lengths <= limit)


@dataclass(frozen=True, kw_only=True)
class LengthLimit:
    """R_total = score where `within_limit`, else 0.

    One limit is DLER's truncation. Several `limits` divide the run into equal rounds, each with the
    next limit: ThinkPrune's iterative pruning. Unlike in the papers, responses are sampled up to
    `rollouts.max_response_tokens` and trained on beyond the limit.
    Raises ValueError for no limit, or one below 1.
    """

    limits: Sequence[int]
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.limits or min(self.limits) < 1:
            raise ValueError(
                f"limits must be one or more numbers of tokens, at least 1, got {self.limits}"
            )

    def limit(self, progress: float) -> int:
        """The limit in force at `progress`, the share of the run already done, in [0, 1)."""
        return self.limits[min(int(progress * len(self.limits)), len(self.limits) - 1)]

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        kept = within_limit(inputs.lengths, inputs.finished, self.limit(inputs.progress))
        return torch.where(kept, inputs.scores, 0.0)


def overlong_punishment(
    lengths: Int[Tensor, " R"], *, longest: int, margin: int
) -> Float[Tensor, " R"]:
    """0 up to longest - margin, then (longest - margin - L) / margin down to -1 at `longest` and beyond.

    DAPO eq. 13 (L_max, L_cache), https://arxiv.org/abs/2503.14476.
    """
    return ((longest - margin - lengths.double()) / margin).clamp(-1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class SoftOverlong:
    """DAPO: R_total = 2 score - 1 + `overlong_punishment` over the last `margin` tokens before the limit.

    The paper's correctness reward is 1 or -1 (section 2.4); this sets the weight of the punishment.
    Raises ValueError for a margin outside [1, rollouts.max_response_tokens].
    """

    margin: int
    max_response_tokens: int
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.margin <= self.max_response_tokens:
            raise ValueError(
                "margin must be from 1 to rollouts.max_response_tokens "
                f"({self.max_response_tokens}), got {self.margin}"
            )

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        punishment = overlong_punishment(
            inputs.lengths, longest=self.max_response_tokens, margin=self.margin
        )
        return 2 * inputs.scores - 1 + punishment.to(inputs.scores.dtype)


def step_reward(
    correct: Bool[Tensor, " R"], lengths: Int[Tensor, " R"], targets: Float[Tensor, " R"]
) -> Bool[Tensor, " R"]:
    """Whether a response is correct and at most as long as its question's target.

    LASER and LASER-D, section 3, https://arxiv.org/abs/2505.15612.
    """
    return correct & (lengths <= targets)


@dataclass(frozen=True, kw_only=True)
class TargetLength:
    """LASER-D: R_total = score + `bonus` where `step_reward`; a wrong response gets -`wrong` instead of 0,
    and one without an answer -`no_answer`.

    The target is the signal `target_length` of `DifficultyTargets`; 0.5 and 0.5 are published, 1 for no
    answer is the released code's. A score between 0 and 1 counts in proportion. Raises ValueError for
    negative arguments.
    """

    bonus: float = 0.5
    wrong: float = 0.5
    no_answer: float = 1.0
    target_signal: str = "target_length"

    def __post_init__(self) -> None:
        check(NOT_NEGATIVE, bonus=self.bonus, wrong=self.wrong, no_answer=self.no_answer)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.target_signal,)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        targets = inputs.signal(self.target_signal)
        short = step_reward(inputs.correct, inputs.lengths, targets)
        wrong = torch.where(inputs.answered, self.wrong, self.no_answer)
        scores = inputs.scores - wrong * (1 - inputs.scores)
        return scores + self.bonus * short.to(inputs.scores.dtype)
