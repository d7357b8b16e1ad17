"""The samples of an evaluation: K responses to each of Q questions. Axes: Q questions, K samples."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NO_ANSWER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTable:
    """The samples of one policy, a row per question; `index` numbers the evaluated questions.

    `lengths` in tokens, `entropy` in nats per token of each response. `finished` is False where the
    token limit truncated a response. `answers` numbers the distinct final answers to a question
    (`answer_classes`); NO_ANSWER where there is none, or where answers were not extracted.
    """

    index: Int[Tensor, " Q"]
    correct: Bool[Tensor, "Q K"]
    lengths: Int[Tensor, "Q K"]
    finished: Bool[Tensor, "Q K"]
    answers: Int[Tensor, "Q K"]
    entropy: Float[Tensor, "Q K"]

    @property
    def questions(self) -> int:
        return self.correct.shape[0]

    @property
    def samples(self) -> int:
        return self.correct.shape[1]

    def rows(self, chosen: Bool[Tensor, " Q"] | Int[Tensor, " N"]) -> "SampleTable":
        """The table of the chosen questions, in the chosen order."""
        return SampleTable(**{name: getattr(self, name)[chosen] for name in COLUMNS})

    def columns(self, start: int, stop: int | None = None) -> "SampleTable":
        """The table of the samples from `start` up to `stop`."""
        columns = {name: getattr(self, name)[:, start:stop] for name in COLUMNS if name != "index"}
        return replace(self, **columns)


COLUMNS = tuple(column.name for column in fields(SampleTable))


def join_tables(tables: Sequence[SampleTable]) -> SampleTable:
    """The questions of all `tables`, sorted by index.

    A question that occurs again counts once, as first seen.
    """
    columns = {name: torch.cat([getattr(table, name) for table in tables]) for name in COLUMNS}
    _, first = np.unique(columns["index"].numpy(), return_index=True)
    return SampleTable(**columns).rows(torch.from_numpy(first))


def answer_classes(answers: Sequence[Hashable | None]) -> list[int]:
    """0 for the first distinct answer, 1 for the second, ...; NO_ANSWER for None."""
    numbers: dict[Hashable, int] = {}
    return [
        NO_ANSWER if answer is None else numbers.setdefault(answer, len(numbers))
        for answer in answers
    ]
