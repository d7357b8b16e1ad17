"""Cuts a rollout batch: mini-batches of whole prompts, micro-batches within a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

OVERHEAD_TOKENS = 128
"""Fixed cost of a micro-batch, in tokens: saving less padding than this is not worth another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """Rows that go through the model together, cut to `width`, the longest row's tokens."""

    rows: Int[Tensor, " m"]
    width: int


def minibatches(
    group: Int[Tensor, " R"], num_prompts: int, prompts: int
) -> list[Int[Tensor, " M"]]:
    """Row indices of each optimizer step: `prompts` whole groups at a time, in batch order."""
    return [
        torch.nonzero((group >= first) & (group < first + prompts)).flatten()
        for first in range(0, num_prompts, prompts)
    ]


def microbatches(
    totals: Int[Tensor, " R"], rows: Int[Tensor, " M"], max_tokens: int
) -> list[Microbatch]:
    """Cuts `rows`, longest first, so that rows x longest row <= `max_tokens` (at least one row each).

    Of all such cuts it is the one with the fewest tokens, counting padding and OVERHEAD_TOKENS per
    micro-batch. The longest rows come first, so a budget too large for the device fails at once.
    """
    order = rows[torch.argsort(totals[rows], descending=True, stable=True)]
    lengths = totals[order].tolist()
    cuts = cheapest_cuts(lengths, max_tokens)
    return [
        Microbatch(rows=order[start:stop], width=max(1, lengths[start]))
        for start, stop in zip([0, *cuts], cuts, strict=False)
    ]


def cheapest_cuts(lengths: Sequence[int], max_tokens: int) -> list[int]:
    """Where each micro-batch of the descending `lengths` ends; the last end is their number.

    From the back: best[i] = min_j lengths[i] (j - i) + OVERHEAD_TOKENS + best[j].
    """
    count = len(lengths)
    best, end = np.zeros(count + 1), [0] * count
    sizes = np.arange(1, count + 1)
    for first in range(count - 1, -1, -1):
        longest = max(1, lengths[first])  # an aborted row may have no token
        most = max(1, min(count - first, max_tokens // longest))
        costs = longest * sizes[:most] + best[first + 1 : first + 1 + most]
        chosen = int(costs.argmin())
        best[first], end[first] = costs[chosen] + OVERHEAD_TOKENS, first + 1 + chosen
    cuts, reached = [], 0
    while reached < count:
        reached = end[reached]
        cuts.append(reached)
    return cuts


def padding_fraction(totals: Int[Tensor, " R"], micro: Sequence[Microbatch]) -> float:
    """Share of padding among the tokens that go through the model."""
    used = sum(int(totals[cut.rows].sum()) for cut in micro)
    paid = sum(len(cut.rows) * cut.width for cut in micro)
    return 1 - used / paid
