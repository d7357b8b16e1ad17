"""The samples of an evaluation: K responses to each of Q questions, gathered over batches and ranks.

Axes: Q questions of a table (P of one update), K samples per question.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

NO_ANSWER = -1
COLUMNS = ("correct", "lengths", "finished", "answers", "entropy")


class SampleTable:
    """The samples of one policy, rows sorted by question `index`.

    `lengths` in tokens, `entropy` in nats per token of each response. `finished` is False where the
    token limit truncated a response. `answers` numbers the distinct final answers to a question
    (`answer_classes`); NO_ANSWER where there is none, or where answers were not extracted.
    Not a dataclass: torchmetrics takes apart a dataclass that a metric returns, squeezes single values
    and refuses frozen ones.
    """

    __slots__ = ("answers", "correct", "entropy", "finished", "index", "lengths")

    def __init__(
        self,
        *,
        index: Int[Tensor, " Q"],
        correct: Bool[Tensor, "Q K"],
        lengths: Int[Tensor, "Q K"],
        finished: Bool[Tensor, "Q K"],
        answers: Int[Tensor, "Q K"],
        entropy: Float[Tensor, "Q K"],
    ) -> None:
        self.index, self.correct, self.lengths = index, correct, lengths
        self.finished, self.answers, self.entropy = finished, answers, entropy

    @property
    def questions(self) -> int:
        return self.correct.shape[0]

    @property
    def samples(self) -> int:
        return self.correct.shape[1]

    def rows(self, chosen: Bool[Tensor, " Q"] | Int[Tensor, " Q"]) -> "SampleTable":
        """The table of the chosen questions."""
        columns = {name: getattr(self, name)[chosen] for name in COLUMNS}
        return SampleTable(index=self.index[chosen], **columns)

    def columns(self, start: int, stop: int | None = None) -> "SampleTable":
        """The table of the samples from `start` up to `stop`."""
        columns = {name: getattr(self, name)[:, start:stop] for name in COLUMNS}
        return SampleTable(index=self.index, **columns)


def answer_classes(answers: Sequence[Hashable | None]) -> list[int]:
    """0 for the first distinct answer, 1 for the second, ...; NO_ANSWER for None."""
    numbers: dict[Hashable, int] = {}
    return [
        NO_ANSWER if answer is None else numbers.setdefault(answer, len(numbers))
        for answer in answers
    ]


class SampleMetric(Metric):
    """Gathers samples over batches and ranks into a `SampleTable`.

    A question seen twice (a distributed sampler pads with repeats) counts once, as first seen in
    rank order. Every question has the same number K of samples.
    """

    full_state_update = False
    packed: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        # One flat float32 list of rows [K, index, K of each column]: a single collective, which a rank
        # without questions joins with torchmetrics' empty tensor, flat and float32 too. Counts below
        # 2^24 are exact.
        self.add_state("packed", default=[], dist_reduce_fx="cat")

    def update(
        self,
        index: Int[Tensor, " P"],
        *,
        correct: Bool[Tensor, "P K"],
        lengths: Int[Tensor, "P K"],
        finished: Bool[Tensor, "P K"],
        entropy: Float[Tensor, "P K"],
        answers: Int[Tensor, "P K"] | None = None,
    ) -> None:
        """Adds P questions; `index` numbers them within the evaluated set."""
        if answers is None:
            answers = torch.full_like(lengths, NO_ANSWER)
        samples = torch.full_like(index, correct.shape[1])
        parts = (torch.stack([samples, index], 1), correct, lengths, finished, answers, entropy)
        assert isinstance(self.packed, list), "states are lists until they are synchronized"
        self.packed.append(torch.cat([part.float() for part in parts], 1).flatten())

    def compute(self) -> Any:
        """The `SampleTable` of all questions, on the CPU. Raises ValueError for none, or for several K."""
        packed = self.packed
        if isinstance(packed, list):
            packed = torch.cat(packed) if packed else torch.empty(0)
        if not packed.numel():
            raise ValueError("no question was scored; the source of questions gave none")
        samples = int(packed[0])
        width = 2 + len(COLUMNS) * samples
        if packed.numel() % width or (packed[::width] != samples).any():
            raise ValueError(f"questions need one number of samples, got {samples} and others")
        rows = packed.view(-1, width).cpu()
        rows = rows[torch.argsort(rows[:, 1], stable=True)]
        first = torch.ones(len(rows), dtype=torch.bool)
        first[1:] = rows[1:, 1] != rows[:-1, 1]
        rows = rows[first]
        correct, lengths, finished, answers, entropy = rows[:, 2:].split(samples, 1)
        return SampleTable(
            index=rows[:, 1].long(),
            correct=correct.bool(),
            lengths=lengths.long(),
            finished=finished.bool(),
            answers=answers.long(),
            entropy=entropy.clone(),
        )
