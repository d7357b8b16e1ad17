"""Length rewards: what a correct response is worth, given how long it took; CEEH's and Length-Penalty.

A shaping is one class named by `objective.shaping.class_path`: `reads` names the signals it needs,
calling it turns scores into R_total. Axes: P prompts, R rollout rows. Lengths are in tokens.
The relatives' are in `length_rewards` and `length_limits`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.config import Config
from ceeh.modules.advantages import group_mean
from ceeh.types import RolloutBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapingInputs:
    """All that a shaping may look at: the rows of one rollout step and the prompts' signals.

    `progress` is the share of the run's rollout steps that lie behind, in [0, 1).
    """

    scores: Float[Tensor, " R"]
    correct: Bool[Tensor, " R"]
    lengths: Int[Tensor, " R"]
    finished: Bool[Tensor, " R"]
    group: Int[Tensor, " R"]
    num_prompts: int
    signals: Mapping[str, Float[Tensor, " P"]]
    progress: float

    @classmethod
    def of(cls, batch: RolloutBatch, progress: float) -> "ShapingInputs":
        finished = [flag for outcome in batch.outcomes for flag in outcome.finished]
        return cls(
            scores=batch.scores,
            correct=batch.correct,
            lengths=batch.lengths,
            finished=torch.tensor(finished, device=batch.correct.device),
            group=batch.group,
            num_prompts=batch.num_prompts,
            signals=batch.signals,
            progress=progress,
        )

    def signal(self, name: str) -> Float[Tensor, " R"]:
        """The signal of each row's prompt. Raises ValueError when no callback wrote it."""
        if name not in self.signals:
            raise ValueError(
                f"objective.shaping reads the signal '{name}', which no callback wrote; add one "
                "under callbacks, or give the name of one of these: "
                + (", ".join(self.signals) or "none")
            )
        return self.signals[name][self.group]

    @property
    def accuracy(self) -> Float[Tensor, " R"]:
        """Acc(x) of each row's prompt: the share of correct responses in its group."""
        return group_mean(self.correct, self.group, self.num_prompts)[self.group]


@runtime_checkable
class Shaping(Protocol):
    """What `objective.shaping.class_path` must name."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the signals that `inputs.signals` must hold."""
        ...

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        """R_total of each row."""
        ...


@runtime_checkable
class MeasuredShaping(Shaping, Protocol):
    """A shaping that has numbers of its own to log."""

    def metrics(self, inputs: ShapingInputs) -> Mapping[str, Float[Tensor, " R"]]:
        """Values per row by name, NaN where there is none; their mean over ranks is `reward/<name>`."""
        ...


def build_shaping(config: Config) -> Shaping:
    """What `objective.shaping` names, given `max_response_tokens` if it asks for that."""
    return config.objective.shaping.build(
        "objective.shaping", max_response_tokens=config.rollouts.max_response_tokens
    )


def optimal_length_penalty(
    correct: Bool[Tensor, " R"],
    lengths: Int[Tensor, " R"],
    optimal_lengths: Float[Tensor, " R"],
    open_gate: Bool[Tensor, " R"],
    *,
    beta: float,
    floor: float,
) -> Float[Tensor, " R"]:
    """max(-floor, -beta (L_i - L_x) / L_x) where correct and the gate is open, else 0.

    L_x is the prompt's shortest correct response of earlier visits, NaN where there is none: then
    there is nothing to be long against, and the term is 0. A response below L_x earns a bonus.
    CEEH eq. 13 and 14, https://arxiv.org/abs/2602.22642; the floor is the released code's.
    """
    excess = (lengths - optimal_lengths) / optimal_lengths
    applies = correct & open_gate & (optimal_lengths > 0)
    return torch.where(applies, (-beta * excess).clamp(min=-floor), 0.0)


def not_worse_than_history(
    accuracy: Float[Tensor, " R"], history: Float[Tensor, " R"]
) -> Bool[Tensor, " R"]:
    """The gate Acc(x) >= Acc_h(x); open where the history is NaN (the prompt is new).

    With > a question solved at every visit, Acc = Acc_h = 1, would never be compressed, although it
    is the one with most to give. CEEH eq. 14, https://arxiv.org/abs/2602.22642.
    """
    # The tolerance makes equal equal: a moving average of 7/12s is not 7/12 to the last bit, and
    # accuracies that differ do so by one response of a group.
    return history.isnan() | (accuracy >= history - 1e-6)


def length_penalty(
    correct: Bool[Tensor, " R"],
    lengths: Int[Tensor, " R"],
    group: Int[Tensor, " R"],
    num_prompts: int,
    *,
    alpha: float,
) -> Float[Tensor, " R"]:
    """-alpha sigmoid((L_i - mean_x) / std_x) where correct, else 0.

    mean_x and std_x (population) are over the lengths of the group's correct responses; equal
    lengths, or a single one, count as average: -alpha / 2.
    Arora & Zanette, https://arxiv.org/abs/2502.04463.
    """
    of_correct = group[correct]
    values = lengths[correct].double()
    centred = values - group_mean(values, of_correct, num_prompts)[of_correct]
    std = group_mean(centred.square(), of_correct, num_prompts).sqrt()[of_correct]
    # Below a thousandth of a token a std is rounding: integer lengths that differ give more.
    standardised = torch.where(std > 1e-3, centred / std, 0.0)
    penalty = torch.zeros(len(lengths), dtype=torch.float64, device=lengths.device)
    penalty[correct] = -alpha * standardised.sigmoid()
    return penalty


@dataclass(frozen=True, kw_only=True)
class NoShaping:
    """R_total = score: correctness alone."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        return inputs.scores


@dataclass(frozen=True, kw_only=True)
class OptimalLengthPenalty:
    """R_total = score + `optimal_length_penalty`, CEEH's reward; without `gate` on every question.

    A correct response keeps at least 1 - `floor`. Raises ValueError for arguments out of range.
    """

    beta: float = 0.1
    gate: bool = True
    floor: float = 0.9
    optimal_length_signal: str = "optimal_length"
    history_signal: str = "accuracy_history"

    def __post_init__(self) -> None:
        if not (self.beta >= 0 and math.isfinite(self.beta)):
            raise ValueError(f"beta must be a finite number, at least 0, got {self.beta}")
        if not 0 < self.floor <= 1:
            raise ValueError(
                f"floor must be in (0, 1], got {self.floor}: above 1 a correct response could be "
                "worth less than a wrong one"
            )
        if not isinstance(self.gate, bool):
            raise ValueError(f"gate must be true or false, got {self.gate!r}")

    @property
    def reads(self) -> tuple[str, ...]:
        anchor = (self.optimal_length_signal,)
        return (*anchor, self.history_signal) if self.gate else anchor

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        return inputs.scores + self.penalty(inputs)

    def penalty(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        open_gate = self.open_gate(inputs)
        penalty = optimal_length_penalty(
            inputs.correct,
            inputs.lengths,
            inputs.signal(self.optimal_length_signal),
            open_gate,
            beta=self.beta,
            floor=self.floor,
        )
        return penalty.to(inputs.scores.dtype)

    def open_gate(self, inputs: ShapingInputs) -> Bool[Tensor, " R"]:
        if not self.gate:
            return torch.ones_like(inputs.correct)
        return not_worse_than_history(inputs.accuracy, inputs.signal(self.history_signal))

    def metrics(self, inputs: ShapingInputs) -> Mapping[str, Float[Tensor, " R"]]:
        """`gate_open`: the share of rows where it is; `length_penalty`: mean over correct responses."""
        return {
            "gate_open": self.open_gate(inputs).float(),
            "length_penalty": torch.where(inputs.correct, self.penalty(inputs), torch.nan),
        }


@dataclass(frozen=True, kw_only=True)
class LengthPenalty:
    """R_total = score + `length_penalty`, the main baseline: correct responses against their group.

    Raises ValueError for `alpha` outside [0, 1).
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be in [0, 1), got {self.alpha}")

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        penalty = length_penalty(
            inputs.correct, inputs.lengths, inputs.group, inputs.num_prompts, alpha=self.alpha
        )
        return inputs.scores + penalty.to(inputs.scores.dtype)
