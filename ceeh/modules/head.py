"""The output head in chunks of tokens: log-probs of targets and entropy, never all logits at once.

Axes: N tokens of a micro-batch, C tokens of one chunk, D width, V vocabulary.

`token_values` and `logit_gradient` are all the element-wise work; the matrix products are in their callers.
On CUDA they are compiled to few passes over the logits: eagerly that work takes longer than the products
(docs/gpu.md). On the CPU they go through a chunk in blocks, whose intermediates stay in the cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TokenObjective = Callable[[Tensor, Tensor, slice], Tensor]
"""(log-probs [C], entropy [C], which of the N tokens they are) -> the loss of these tokens."""

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


@torch.no_grad()
def chunked_logprobs_and_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    *,
    temperature: float,
    chunk_tokens: int,
    bias: Float[Tensor, " V"] | None = None,
    transform: LogitTransform = PLAIN,
    operands: torch.dtype | None = None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """log p(target) and H = -sum_v p_v log p_v (nats); p = softmax(logits / temperature).

    logits = `transform` of hidden weight.T + bias.

    Without gradient. At most `chunk_tokens` x V logits exist at a time, with intermediates of a
    few blocks. Logits and softmax are in fp32 (float64 for float64 `hidden`), also under
    autocast: bf16 logits are the main source of mismatch between trainer and engine (MiniMax-M1,
    https://arxiv.org/abs/2506.13585). `operands` is what the product multiplies, by default the same;
    products of bf16 operands are exact in fp32, in which they are summed.
    """
    dtype = check(hidden, temperature, chunk_tokens)
    logprobs = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
    entropy = torch.empty_like(logprobs)
    with torch.autocast(hidden.device.type, enabled=False):
        head = weight.to(operands or dtype)
        for rows in slices(len(hidden), chunk_tokens):
            logits = multiply(hidden[rows].to(head.dtype), head.T)
            logprobs[rows], entropy[rows], _ = evaluate(
                logits, targets[rows], temperature, bias, transform
            )
            del logits  # else they stay alive with the next chunk's
    return logprobs, entropy


def chunked_objective(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    objective: TokenObjective,
    *,
    temperature: float,
    chunk_tokens: int,
    bias: Float[Tensor, " V"] | None = None,
    transform: LogitTransform = PLAIN,
    operands: torch.dtype | None = None,
) -> Float[Tensor, ""]:
    """The sum of `objective` over chunks of the two outputs of `chunked_logprobs_and_entropy`.

    Differentiable once, in `hidden`, `weight` and `bias`. Each chunk's gradient is computed in the forward
    pass, while its logits exist: with z = logits / temperature, d log p_y / dz_j = [j = y] - p_j and
    dH / dz_j = -p_j (log p_j + H). Fused linear cross entropy does this for one loss (Liger,
    https://arxiv.org/abs/2410.10989); this function for any loss of both outputs.
    """
    check(hidden, temperature, chunk_tokens)
    return _ChunkedObjective.apply(  # type: ignore[no-any-return]
        hidden, weight, bias, targets, objective, temperature, chunk_tokens, transform, operands
    )


class _ChunkedObjective(torch.autograd.Function):
    """Gradients are computed in forward and scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        objective: TokenObjective,
        temperature: float,
        chunk_tokens: int,
        transform: LogitTransform,
        operands: torch.dtype | None,
    ) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Summed over chunks in fp32: in bf16 small addends would be lost.
        grad_weight = torch.zeros_like(weight, dtype=dtype) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=dtype) if bias is not None and needs_bias else None
        loss = torch.zeros((), dtype=dtype, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(operands or dtype)
            for rows in slices(len(hidden), chunk_tokens):
                chunk = hidden[rows].to(head.dtype)
                logits = multiply(chunk, head.T)
                logprobs, entropy, log_z = evaluate(
                    logits, targets[rows], temperature, bias, transform
                )
                part, grad_logprob, grad_entropy = differentiated(
                    objective, logprobs, entropy, rows
                )
                loss += part
                if needs_hidden or needs_weight or needs_bias:
                    grad_logits = gradient(
                        logits,
                        targets[rows],
                        entropy,
                        log_z,
                        grad_logprob,
                        grad_entropy,
                        temperature,
                        bias,
                        transform,
                        head.dtype,
                    )
                    if grad_hidden is not None:
                        grad_hidden[rows] = multiply(grad_logits, head).to(hidden.dtype)
                    if grad_weight is not None:
                        add_product_(grad_weight, grad_logits.T, chunk)
                    if grad_bias is not None:
                        grad_bias += grad_logits.sum(0, dtype=dtype)
                    del grad_logits
                del logits  # else they stay alive with the next chunk's
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        if bias is not None and grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:  # type: ignore[override]
        # In place, because the weight's gradient is large; autograd then refuses a second backward.
        scaled = [
            None if gradient is None else gradient.mul_(grad_outputs[0])
            for gradient in ctx.saved_tensors
        ]
        return *scaled, None, None, None, None, None, None


def multiply(a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
    """a b. Of bf16 operands in fp32: the products are exact, and summed in fp32."""
    if a.dtype != torch.bfloat16:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def add_product_(
    total: Float[Tensor, "m n"], a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]
) -> None:
    """total += a b, as `multiply`."""
    if a.dtype != torch.bfloat16:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())


def differentiated(
    objective: TokenObjective,
    logprobs: Float[Tensor, " C"],
    entropy: Float[Tensor, " C"],
    rows: slice,
) -> tuple[Float[Tensor, ""], Float[Tensor, " C"], Float[Tensor, " C"]]:
    """The chunk's loss, and its derivatives in both of its arguments."""
    with torch.enable_grad():
        leaves = [logprobs.detach().requires_grad_(), entropy.detach().requires_grad_()]
        loss = objective(leaves[0], leaves[1], rows)
        if not loss.requires_grad:
            return loss, torch.zeros_like(logprobs), torch.zeros_like(entropy)
        grad_logprob, grad_entropy = torch.autograd.grad(
            loss, leaves, allow_unused=True, materialize_grads=True
        )
    return loss.detach(), grad_logprob, grad_entropy


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


def check(hidden: Float[Tensor, "N D"], temperature: float, chunk_tokens: int) -> torch.dtype:
    """What the head computes in."""
    assert temperature > 0, f"temperature must be greater than 0, got {temperature}"
    assert chunk_tokens > 0, f"chunk_tokens must be greater than 0, got {chunk_tokens}"
    return torch.promote_types(hidden.dtype, torch.float32)
