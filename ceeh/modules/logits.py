"""The element-wise work on a chunk of logits: log-probs of targets and entropy, and their gradient.

Axes: C tokens of one chunk, D width, V vocabulary.

`token_values` and `logit_gradient` are all of it; the matrix products are in `ceeh/modules/head.py`. On CUDA
they are compiled to few passes over the logits: eagerly that work takes longer than the products
(docs/gpu.md). On the CPU they go through a chunk in blocks, whose intermediates stay in the cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

VARIANTS = 64
"""Compilations of one function that a process may make."""
BLOCK = 2**18
"""Logits of a block, 1 MiB in fp32, or one token's if those are more."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """Logits of a token from its product x = h W^T + b: cap tanh(scale x / cap), or scale x without a cap.

    The sampling temperature divides them afterwards: z = logits / temperature. Caps: Gemma 2,
    https://arxiv.org/abs/2408.00118, section 2; scales: Cohere, Granite.
    """

    scale: float = 1.0
    cap: float | None = None


PLAIN = LogitTransform()


def evaluate(
    products: Float[Tensor, "C V"],
    targets: Int[Tensor, " C"],
    temperature: float,
    bias: Float[Tensor, " V"] | None,
    transform: LogitTransform,
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"], Float[Tensor, " C"]]:
    """`token_values` of a chunk."""
    given = temperature, bias, transform.scale, transform.cap
    if products.is_cuda:
        return compiled(token_values)(products, targets, *given)
    parts = [token_values(products[rows], targets[rows], *given) for rows in blocks(products)]
    logprobs, entropy, log_z = map(torch.cat, zip(*parts, strict=True))
    return logprobs, entropy, log_z


def gradient(
    products: Float[Tensor, "C V"],
    targets: Int[Tensor, " C"],
    entropy: Float[Tensor, " C"],
    log_z: Float[Tensor, " C"],
    grad_logprob: Float[Tensor, " C"],
    grad_entropy: Float[Tensor, " C"],
    temperature: float,
    bias: Float[Tensor, " V"] | None,
    transform: LogitTransform,
    dtype: torch.dtype,
) -> Float[Tensor, "C V"]:
    """`logit_gradient` of a chunk, in `dtype`; on the CPU it overwrites the products."""
    of_tokens = targets, entropy, log_z, grad_logprob, grad_entropy
    given = temperature, bias, transform.scale, transform.cap
    if products.is_cuda:
        return compiled(logit_gradient)(products, *of_tokens, *given, dtype)
    for rows in blocks(products):
        of_block = targets[rows], entropy[rows], log_z[rows], grad_logprob[rows], grad_entropy[rows]
        block = products[rows]
        block.copy_(logit_gradient(block, *of_block, *given, products.dtype))
    return products.to(dtype)


@cache
def compiled(function: Callable) -> Callable:
    """Compiled at its first use, which takes seconds, and again when the number of tokens first changes.

    Every precision, bias, cap, autocast state and chunk of one token is a variant. Beyond torch's limit of 8
    it would raise, because `fullgraph` does not fall back to eager code.
    """
    from torch._dynamo import config  # a second to import, and for CUDA alone

    config.recompile_limit = max(config.recompile_limit, VARIANTS)
    return torch.compile(function, fullgraph=True)


@no_type_check  # the tests' checks of shapes cannot be compiled
def token_values(
    x: Float[Tensor, "C V"],
    targets: Int[Tensor, " C"],
    temperature: float,
    bias: Float[Tensor, " V"] | None,
    scale: float,
    cap: float | None,
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Log-probs of the targets, entropy, and log sum_v exp z_v, from the products x = hidden weight.T."""
    z, _ = transformed(x, temperature, bias, scale, cap)
    log_z = z.logsumexp(1)
    log_p = z - log_z[:, None]
    target = log_p.gather(1, targets[:, None]).squeeze(1)
    return target, -(log_p.exp() * log_p).sum(1), log_z


@no_type_check
def logit_gradient(
    x: Float[Tensor, "C V"],
    targets: Int[Tensor, " C"],
    entropy: Float[Tensor, " C"],
    log_z: Float[Tensor, " C"],
    grad_logprob: Float[Tensor, " C"],
    grad_entropy: Float[Tensor, " C"],
    temperature: float,
    bias: Float[Tensor, " V"] | None,
    scale: float,
    cap: float | None,
    dtype: torch.dtype,
) -> Float[Tensor, "C V"]:
    """The gradient in the products x, in `dtype`.

    In z it is -p (g_logp + g_H (log p + H)), and + g_logp at the target.
    """
    z, slope = transformed(x, temperature, bias, scale, cap)
    log_p = z - log_z[:, None]
    constant = -(grad_logprob + grad_entropy * entropy)
    in_z = log_p.exp() * torch.addcmul(constant[:, None], -grad_entropy[:, None], log_p)
    token_ids = torch.arange(x.shape[1], device=x.device, dtype=torch.int32)
    chosen = token_ids == targets[:, None].int()
    return ((in_z + torch.where(chosen, grad_logprob[:, None], 0.0)) * slope).to(dtype)


@no_type_check
def transformed(
    x: Float[Tensor, "C V"],
    temperature: float,
    bias: Float[Tensor, " V"] | None,
    scale: float,
    cap: float | None,
) -> tuple[Float[Tensor, "C V"], Float[Tensor, "C V"] | float]:
    """z and dz/dx as of `LogitTransform`: scale / temperature, with a cap times 1 - (logits / cap)^2."""
    x = x if bias is None else x + bias
    if cap is None:
        return x * (scale / temperature), scale / temperature
    bounded = (x * (scale / cap)).tanh()
    return bounded * (cap / temperature), (1 - bounded**2) * (scale / temperature)


def blocks(products: Float[Tensor, "C V"]) -> list[slice]:
    return slices(len(products), block_tokens(products.shape[1]))


def block_tokens(vocabulary: int) -> int:
    """Tokens of a block."""
    return max(1, BLOCK // vocabulary)


def slices(rows: int, size: int) -> list[slice]:
    """`rows` cut into runs of `size`, the last one shorter."""
    return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]
