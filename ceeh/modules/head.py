"""The output head in chunks of tokens: log-probs of targets and entropy, never all logits at once.

Axes: N tokens of a micro-batch, C tokens of one chunk, D width, V vocabulary.

The matrix products are here; the element-wise work on a chunk's logits is in `ceeh/modules/logits.py`.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from ceeh.modules.logits import PLAIN, LogitTransform, evaluate, gradient, slices

TokenObjective = Callable[[Tensor, Tensor, slice], Tensor]
"""(log-probs [C], entropy [C], which of the N tokens they are) -> the loss of these tokens."""


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


def check(hidden: Float[Tensor, "N D"], temperature: float, chunk_tokens: int) -> torch.dtype:
    """What the head computes in."""
    assert temperature > 0, f"temperature must be greater than 0, got {temperature}"
    assert chunk_tokens > 0, f"chunk_tokens must be greater than 0, got {chunk_tokens}"
    return torch.promote_types(hidden.dtype, torch.float32)
