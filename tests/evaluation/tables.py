"""Sample tables for tests, from the columns that a test cares about."""

import math

import torch
from torch import Tensor

from ceeh.evaluation.metrics import question_values, sample_ratios
from ceeh.evaluation.samples import NO_ANSWER, SampleTable


def sample_table(
    *,
    correct: Tensor,
    lengths: Tensor | None = None,
    finished: Tensor | None = None,
    answers: Tensor | None = None,
    entropy: Tensor | None = None,
) -> SampleTable:
    """Finished responses of one token, without answers, with entropy 0, unless given.

    `entropy` may be one number per question, for all its samples.
    """
    if entropy is None:
        entropy = torch.zeros(correct.shape)
    elif entropy.dim() == 1:
        entropy = entropy[:, None].expand(correct.shape)
    return SampleTable(
        index=torch.arange(len(correct)),
        correct=correct,
        lengths=torch.ones(correct.shape, dtype=torch.long) if lengths is None else lengths,
        finished=torch.ones(correct.shape, dtype=torch.bool) if finished is None else finished,
        answers=torch.full(correct.shape, NO_ANSWER) if answers is None else answers,
        entropy=entropy.float(),
    )


def table_metrics(table: SampleTable) -> dict[str, float]:
    """Every metric by name; NaN for a mean over nothing. Fractions in [0, 1]."""
    found = {
        name: float(above.sum() / below.sum()) if below.sum() else math.nan
        for name, (above, below) in sample_ratios(table).items()
    }
    return found | {name: float(values.mean()) for name, values in question_values(table).items()}
