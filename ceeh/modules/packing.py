"""Rows packed into one, without padding, and the attention that keeps them apart.

Axes: S tokens of all rows together, H heads (fewer for keys and values), E size of a head.
"""

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from ceeh.errors import ConfigError, first_line

PACKED = ("varlen", "flash_attention_2")
"""Values of `model.attention` whose kernels take rows of several lengths, one after the other."""
GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""torch 2.11 takes fewer heads of keys without being told."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Of hidden states, relative. Rows that reach into each other are off by more, usually by 0.2 to 0.8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where the rows of a packed row [1 S] lie.

    positions: of each token in its own row. boundaries: 0, then the end of each row. lengths: on the host.
    """

    positions: Int[Tensor, "1 S"]
    boundaries: Int[Tensor, " ends"]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Packing":
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        return cls(positions=positions, boundaries=ends, lengths=tuple(lengths))

    @property
    def arguments(self) -> dict[str, Any]:
        """For a transformers model, which then neither looks for the boundaries nor waits for a GPU."""
        longest = max(self.lengths)
        return {
            "position_ids": self.positions,
            "cu_seq_lens_q": self.boundaries,
            "cu_seq_lens_k": self.boundaries,
            "max_length_q": longest,
            "max_length_k": longest,
            "row_lengths": self.lengths,
        }


def varlen_attention(
    module: nn.Module,
    query: Float[Tensor, "R H T E"],
    key: Float[Tensor, "R G T E"],
    value: Float[Tensor, "R G T F"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    cu_seq_lens_q: Int[Tensor, " ends"] | None = None,
    row_lengths: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "R T H F"], None]:
    """Causal attention within rows: those of `row_lengths` in a packed row, or else each of R.

    By torch's kernel (FlashAttention, bf16 on CUDA), otherwise row by row with sdpa. Raises ValueError for
    what the kernel lacks. The base model is in evaluation mode: no dropout.
    """
    for name, given in (
        ("a mask of its own", attention_mask),
        ("a soft cap of attention scores", softcap),
        ("attention sinks", s_aux),
        ("values of another size than keys", value.shape[-1] != key.shape[-1] or None),
    ):
        if given is not None:
            raise ValueError(f"the attention kernel takes no model with {name}")
    rows, tokens, kind = query.shape[0], query.shape[2], query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    q, k, v = (x.to(dtype).transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    lengths = row_lengths or (tokens,) * rows
    if kind == "cuda" and dtype != torch.float32:
        ends = cu_seq_lens_q
        if ends is None or row_lengths is None:
            ends = torch.arange(rows + 1, dtype=torch.int32, device=query.device) * tokens
        out = torchs_kernel(q, k, v, ends, max(lengths), scaling, sliding_window)
    else:
        out = row_by_row(q, k, v, lengths, scaling, sliding_window)
    return out.view(rows, tokens, *out.shape[1:]), None


def torchs_kernel(
    query: Float[Tensor, "S H E"],
    key: Float[Tensor, "S G E"],
    value: Float[Tensor, "S G E"],
    ends: Int[Tensor, " ends"],
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "S H E"]:
    """A window of w tokens reaches w - 1 to the left; -1 is all of them."""
    left = -1 if window is None else window - 1
    gqa: Any = {"enable_gqa": True} if GQA else {}
    out: Any = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(left, 0), **gqa
    )
    return out


def row_by_row(
    query: Float[Tensor, "S H E"],
    key: Float[Tensor, "S G E"],
    value: Float[Tensor, "S G E"],
    lengths: Sequence[int],
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "S H E"]:
    """The same with sdpa."""
    rows = zip(*(each.split(tuple(lengths)) for each in (query, key, value)), strict=True)
    return torch.cat([one_row(q, k, v, scaling, window) for q, k, v in rows])


def one_row(
    query: Float[Tensor, "T H E"],
    key: Float[Tensor, "T G E"],
    value: Float[Tensor, "T G E"],
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "T H E"]:
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    seen = None
    if window is not None and len(query) > window:
        seen = torch.ones(len(query), len(query), dtype=torch.bool, device=query.device)
        seen = seen.tril().triu(1 - window)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=seen is None, scale=scaling, enable_gqa=True
    )
    return out[0].transpose(0, 1)


# transformers builds no mask for an attention without a mask function of its own.
AttentionInterface.register("varlen", varlen_attention)


def packs_rows(model: PreTrainedModel, attention: str) -> bool:
    """Whether the update packs the rows of `model`, which `attention` decides.

    A model that packing would change keeps its padding under flash_attention_2, with a warning; varlen has
    no other way: ConfigError.
    """
    if attention not in PACKED:
        return False
    fault = packing_fault(model)
    if fault and attention == "varlen":
        raise ConfigError(
            f"model.attention is varlen, but rows of {type(model).__name__} cannot be packed: {fault}; set "
            "model.attention=sdpa"
        )
    if fault:
        warnings.warn(
            f"model.attention: rows of {type(model).__name__} keep their padding, since they cannot be "
            f"packed: {fault}",
            stacklevel=2,
        )
    return fault is None


@torch.no_grad()
def packing_fault(model: PreTrainedModel) -> str | None:
    """Why rows of `model` cannot be packed, or None.

    Two rows in one must have the hidden states that each has alone under eager attention: rows that reach
    each other by other ways than attention, such as convolutions, do not.
    """
    if not model._supports_flash_attn:
        return "transformers has no flash attention for this family"
    if model._is_stateful:
        return "its layers carry a state from row to row"
    token_ids, lengths = torch.arange(1, 10, device=model.device)[None], (5, 4)
    packing, attention = Packing.of(lengths), model.config._attn_implementation or "sdpa"
    arguments = {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in packing.arguments.items()
    }

    def hidden(ids: Tensor, **given: Any) -> Tensor:
        return model.base_model(input_ids=ids, use_cache=False, **given).last_hidden_state[0]

    try:
        model.eval().set_attn_implementation("eager")
        alone = torch.cat([hidden(row) for row in token_ids.split(lengths, 1)])
        model.set_attn_implementation("varlen")
        packed = hidden(token_ids, **arguments)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:  # the model's own code
        return first_line(error)
    finally:
        model.set_attn_implementation(attention)
    difference = float((packed - alone).float().norm() / alone.float().norm())
    if not difference <= TOLERANCE[alone.dtype]:
        return f"a row's hidden states change by {difference:.2g} beside another row"
    return None
