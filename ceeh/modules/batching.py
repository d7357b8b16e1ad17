"""Cuts a batch: mini-batches of whole prompts, micro-batches within a token budget.

Axes: R rows, T tokens of a row; m rows, S tokens and N tokens with loss of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ceeh.data.batch import RolloutBatch
from ceeh.data.examples import ExampleBatch
from ceeh.modules.packing import Packing

OVERHEAD_TOKENS = 128
"""Fixed cost of a micro-batch, in tokens: saving less padding than this is not worth another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """Rows that go through the model together, each cut to `width`, the longest one's tokens, or packed."""

    rows: Int[Tensor, " m"]
    width: int
    packed: bool = False


EMPTY = Microbatch(rows=torch.tensor([0]), width=1)
"""The first token of a row: nothing of a response, because no row begins with one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrobatchIndex:
    """Index tensors of a micro-batch on the batch's device; all positions are in flattened rows.

    token_index: in the batch [R T], of all that goes through the model, as rows of `shape`: [m width], or
    [1 S] if packed. response_index: of the response tokens in these rows. batch_index: of the same response
    tokens in the batch.
    """

    shape: tuple[int, int]
    token_index: Int[Tensor, " S"]
    response_index: Int[Tensor, " N"]
    batch_index: Int[Tensor, " N"]
    packing: Packing | None


def index_microbatches(
    micro: Sequence[Microbatch], batch: RolloutBatch | ExampleBatch
) -> list[MicrobatchIndex]:
    """Finds the tokens of each micro-batch on the host, for all with one copy to the device.

    The device is not waited for: indexing by a mask, or by an index on the host, waits each time.
    """
    totals, mask = batch.totals.cpu(), batch.response_mask.cpu().flatten()
    columns, device = batch.token_ids.shape[1], batch.token_ids.device
    shapes, packings, parts = [], [], []
    for each in micro:
        position, packing = torch.arange(each.width), None
        tokens = each.rows[:, None] * columns + position
        if each.packed:
            tokens = tokens[position < totals[each.rows, None]][None]
            lengths = [length for length in totals[each.rows].tolist() if length]
            if not lengths:  # no kernel takes a row without tokens
                tokens, lengths = torch.zeros(1, 1, dtype=torch.long), [1]
            packing = Packing.of(lengths)
            parts += [packing.positions.flatten(), packing.boundaries.long()]
        flat = tokens.flatten()
        response_index = mask[flat].nonzero()[:, 0]
        parts += [flat, response_index, flat[response_index]]
        shapes.append(tuple(tokens.shape))
        packings.append(packing)
    joined = torch.cat(parts)
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    moved = iter(joined.split([len(part) for part in parts]))
    found = []
    for shape, packing in zip(shapes, packings, strict=True):
        if packing is not None:
            positions, boundaries = next(moved)[None], next(moved).int()
            packing = replace(packing, positions=positions, boundaries=boundaries)
        found.append(
            MicrobatchIndex(
                shape=shape,
                token_index=next(moved),
                response_index=next(moved),
                batch_index=next(moved),
                packing=packing,
            )
        )
    return found


def model_inputs(batch: RolloutBatch | ExampleBatch, index: MicrobatchIndex) -> dict[str, Any]:
    """A micro-batch as the arguments of `Policy.forward`, `loss` and `reference_logprobs`."""
    token_ids, response_mask = (
        values.flatten().index_select(0, index.token_index).view(index.shape)
        for values in (batch.token_ids, batch.response_mask)
    )
    return {
        "token_ids": token_ids,
        "response_mask": response_mask,
        "response_index": index.response_index,
        "packing": index.packing,
    }


def minibatches(
    group: Int[Tensor, " R"], num_prompts: int, prompts: int
) -> list[Int[Tensor, " M"]]:
    """Row indices of each optimizer step: `prompts` whole groups at a time, in batch order."""
    return [
        torch.nonzero((group >= first) & (group < first + prompts)).flatten()
        for first in range(0, num_prompts, prompts)
    ]


def microbatches(
    totals: Int[Tensor, " R"], rows: Int[Tensor, " M"], max_tokens: int, *, packed: bool = False
) -> list[Microbatch]:
    """Cuts `rows`, longest first, so that rows x longest row <= `max_tokens` (at least one row each).

    Of all such cuts it is the one with the fewest tokens, counting padding and OVERHEAD_TOKENS per
    micro-batch. `packed` rows have no padding: each goes into the first micro-batch that its own tokens
    leave within `max_tokens`. The longest come first, so a budget too large for the device fails at once.
    """
    order = rows[torch.argsort(totals[rows], descending=True, stable=True)]
    lengths = totals[order].tolist()
    if packed:
        return [
            Microbatch(rows=order[held], width=max(1, lengths[held[0]]), packed=True)
            for held in first_fit(lengths, max_tokens)
        ]
    cuts = cheapest_cuts(lengths, max_tokens)
    return [
        Microbatch(rows=order[start:stop], width=max(1, lengths[start]))
        for start, stop in zip([0, *cuts], cuts, strict=False)
    ]


def first_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Bins of `size` for the descending `lengths`, at most 11/9 of the fewest possible and one more.

    Dosa, The tight bound of first fit decreasing, https://doi.org/10.1007/978-3-540-74450-4_1.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index, length in enumerate(lengths):
        chosen = next((i for i, left in enumerate(room) if length <= left), len(bins))
        if chosen == len(bins):
            bins.append([])
            room.append(size)
        bins[chosen].append(index)
        room[chosen] -= length
    return bins


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
    used = [int(totals[each.rows].sum()) for each in micro]
    paid = [
        tokens if each.packed else len(each.rows) * each.width
        for each, tokens in zip(micro, used, strict=True)
    ]
    return 1 - sum(used) / sum(paid)
