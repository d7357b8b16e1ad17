"""The output head without its logits: log-prob of targets and entropy, a chunk of tokens at a time.

Axes: N tokens (of all rows of a micro-batch), C tokens of one chunk, D width, V vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


def chunked_logprobs_and_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    *,
    temperature: float,
    chunk_tokens: int,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """log p(target) and H = -sum_v p_v log p_v (nats); p = softmax(hidden weight.T / temperature).

    Differentiable once, both outputs in both inputs. At most `chunk_tokens` x V logits exist at a
    time, in the backward pass too, where they are computed again. Product and softmax are in fp32
    (float64 for float64 `hidden`), under autocast as well: a bf16 head is the main source of
    mismatch between trainer and engine (MiniMax-M1, https://arxiv.org/abs/2506.13585).
    `torch.set_float32_matmul_precision("high")` allows TF32 for the product.
    """
    assert temperature > 0, f"temperature must be greater than 0, got {temperature}"
    assert chunk_tokens > 0, f"chunk_tokens must be greater than 0, got {chunk_tokens}"
    return _ChunkedHead.apply(hidden, weight, targets, temperature, chunk_tokens)  # type: ignore[no-any-return]


class _ChunkedHead(torch.autograd.Function):
    """With z the logits: d log p_y / dz_j = [j = y] - p_j and dH / dz_j = -p_j (log p_j + H)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(hidden), chunk_tokens):
                rows = slice(start, start + chunk_tokens)
                log_p = _log_softmax(hidden[rows].to(dtype), head, temperature)
                logprobs[rows] = log_p.gather(1, targets[rows, None]).squeeze(1)
                entropy[rows] = log_p.exp().mul_(log_p).sum(1).neg_()
                del log_p  # else it lives on beside the next chunk's
        ctx.save_for_backward(hidden, weight, targets, entropy)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:  # type: ignore[override]
        grad_logprobs, grad_entropy = grad_outputs
        hidden, weight, targets, entropy = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        dtype = entropy.dtype
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Summed over chunks in fp32 whatever the weight's dtype: bf16 would lose the small addends.
        grad_weight = torch.zeros_like(weight, dtype=dtype) if needs_weight else None
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(hidden), ctx.chunk_tokens):
                rows = slice(start, start + ctx.chunk_tokens)
                chunk = hidden[rows].to(dtype)
                log_p = _log_softmax(chunk, head, ctx.temperature)
                p = log_p.exp()
                by_logprob, by_entropy = grad_logprobs[rows, None], grad_entropy[rows, None]
                # In one buffer: -p (g_logp + g_H (log p + H)), then + g_logp at the target.
                grad = log_p.add_(entropy[rows, None]).mul_(by_entropy).add_(by_logprob).mul_(p)
                grad.neg_().scatter_add_(1, targets[rows, None], by_logprob).div_(ctx.temperature)
                if grad_hidden is not None:
                    grad_hidden[rows] = (grad @ head).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight.addmm_(grad.T, chunk)
                del log_p, p, grad  # else they live on beside the next chunk's
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None


def _log_softmax(
    hidden: Float[Tensor, "C D"], weight: Float[Tensor, "V D"], temperature: float
) -> Float[Tensor, "C V"]:
    logits = (hidden @ weight.T).div_(temperature)
    return logits.sub_(logits.logsumexp(1, keepdim=True))
