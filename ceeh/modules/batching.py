"""Cuts a rollout batch: mini-batches of whole prompts, micro-batches within a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ceeh.data.batch import RolloutBatch

OVERHEAD_TOKENS = 128
"""Fixed cost of a micro-batch, in tokens: saving less padding than this is not worth another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """Rows that go through the model together, cut to `width`, the longest row's tokens."""

    rows: Int[Tensor, " m"]
    width: int


EMPTY = Microbatch(rows=torch.tensor([0]), width=1)
"""The first token of a row: nothing of a response, because no row begins with one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Index tensors of a micro-batch on the batch's device.

    rows: of the batch. places: of the response tokens in the flattened [m width] rows of the micro-batch, in
    row order. batch_places: the same in the flattened [R T] batch.
    """

    rows: Int[Tensor, " m"]
    width: int
    places: Int[Tensor, " N"]
    batch_places: Int[Tensor, " N"]


def located(micro: Sequence[Microbatch], batch: RolloutBatch) -> list[Located]:
    """Finds the response tokens of each micro-batch on the host, for all with one copy to the device.

    The device is not waited for: indexing by a mask, or by an index on the host, waits each time.
    """
    totals, lengths, parts = batch.totals.cpu(), batch.lengths.cpu(), []
    for cut in micro:
        position, stop = torch.arange(cut.width), totals[cut.rows, None]
        response = (position >= stop - lengths[cut.rows, None]) & (position < stop)
        row, place = response.nonzero(as_tuple=True)
        parts += [cut.rows, row * cut.width + place]
        parts.append(cut.rows[row] * batch.token_ids.shape[1] + place)
    joined, device = torch.cat(parts), batch.token_ids.device
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    split = joined.split([len(part) for part in parts])
    return [
        Located(rows=rows, width=cut.width, places=places, batch_places=batch_places)
        for cut, rows, places, batch_places in zip(
            micro, split[::3], split[1::3], split[2::3], strict=True
        )
    ]


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
