"""A rollout batch cut for the optimiser: mini-batches of whole prompts, micro-batches of a token budget."""

import torch
from jaxtyping import Int
from torch import Tensor

from ceeh.types import RolloutBatch


def minibatches(
    group: Int[Tensor, " R"], num_prompts: int, prompts: int
) -> list[Int[Tensor, " M"]]:
    """Row indices of each optimiser step: `prompts` whole groups at a time, in batch order."""
    return [
        torch.nonzero((group >= first) & (group < first + prompts)).flatten()
        for first in range(0, num_prompts, prompts)
    ]


def microbatches(
    totals: Int[Tensor, " R"], rows: Int[Tensor, " M"], max_tokens: int
) -> list[Int[Tensor, " _"]]:
    """Cuts `rows`, longest first, so that rows x longest row <= `max_tokens` (at least one row each).

    Rows of similar length share a micro-batch, which keeps padding small; the longest come first, so
    that a budget too large for the device fails at once.
    """
    order = rows[torch.argsort(totals[rows], descending=True, stable=True)]
    cuts, longest = [0], int(totals[order[0]])
    for position, length in enumerate(totals[order].tolist()):
        if position > cuts[-1] and (position - cuts[-1] + 1) * longest > max_tokens:
            cuts.append(position)
            longest = length
    return [order[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True)]


def padding_fraction(batch: RolloutBatch, micro: list[Int[Tensor, " _"]]) -> float:
    """Share of the tokens that go through the model which are padding."""
    totals = batch.totals
    used = sum(int(totals[rows].sum()) for rows in micro)
    paid = sum(len(rows) * int(totals[rows].max()) for rows in micro)
    return 1 - used / paid
