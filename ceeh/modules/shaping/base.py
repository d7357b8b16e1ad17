"""What a length reward sees and gives: `ShapingInputs` in, R_total out.

`objective.shaping.class_path` names one class; its `reads` names the signals it needs. Axes: P prompts,
R rollout rows. Lengths are in tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ceeh.data.batch import RolloutBatch
from ceeh.modules.advantages import group_mean
from ceeh.types import GradingOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """Rows in groups: what most length rewards see. `group` is the prompt of each."""

    correct: Bool[Tensor, " R"]
    lengths: Int[Tensor, " R"]
    group: Int[Tensor, " R"]
    num_prompts: int

    def mean(self, values: Shaped[Tensor, " R"]) -> Float[Tensor, " P"]:
        """Mean of the rows' `values` per prompt, in float64; see `group_mean`."""
        return group_mean(values, self.group, self.num_prompts)

    def least(self, values: Shaped[Tensor, " R"]) -> Float[Tensor, " P"]:
        """Least of the rows' `values` per prompt, in float64; infinity for a prompt without rows."""
        empty = torch.full((self.num_prompts,), math.inf, dtype=torch.float64, device=values.device)
        return empty.scatter_reduce(0, self.group, values.double(), "amin")

    def only(self, rows: Bool[Tensor, " R"]) -> "Responses":
        """Some of the rows, e.g. the correct ones."""
        return Responses(
            correct=self.correct[rows],
            lengths=self.lengths[rows],
            group=self.group[rows],
            num_prompts=self.num_prompts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapingInputs(Responses):
    """The rows of one rollout step and the signals of their prompts.

    `answered` is False where there was no answer to grade. `progress` is the share of the run's rollout
    steps already done, in [0, 1).
    """

    scores: Float[Tensor, " R"]
    finished: Bool[Tensor, " R"]
    answered: Bool[Tensor, " R"]
    signals: Mapping[str, Float[Tensor, " P"]]
    progress: float

    @classmethod
    def of(cls, batch: RolloutBatch, progress: float) -> "ShapingInputs":
        finished = [flag for outcome in batch.outcomes for flag in outcome.finished]
        answered = [
            verdict.outcome is not GradingOutcome.NO_ANSWER
            for scored in batch.groups
            for verdict in scored.verdicts
        ]
        return cls(
            scores=batch.scores,
            correct=batch.correct,
            lengths=batch.lengths,
            finished=torch.tensor(finished, device=batch.correct.device),
            answered=torch.tensor(answered, device=batch.correct.device),
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
                "under callbacks, or name one of these signals: "
                + (", ".join(self.signals) or "none")
            )
        return self.signals[name][self.group]

    @property
    def accuracy(self) -> Float[Tensor, " R"]:
        """Acc(x) of each row's prompt: the share of correct responses in its group."""
        return self.mean(self.correct)[self.group]


@runtime_checkable
class Shaping(Protocol):
    """What `objective.shaping.class_path` must name.

    It may also have `metrics(inputs)`, which returns values per row by name, NaN for rows without one;
    `reward/<name>` is their mean over all ranks.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the signals that `inputs.signals` must hold."""
        ...

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        """R_total of each row."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoShaping:
    """R_total = score: correctness alone."""

    reads: ClassVar[tuple[str, ...]] = ()

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        return inputs.scores
