"""The output head in chunks of tokens: log-probs of targets and entropy, never all logits at once.

Axes: N tokens of a micro-batch, C tokens of one chunk, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TokenObjective = Callable[[Tensor, Tensor, slice], Tensor]
"""(log-probs [C], entropy [C], which of the N tokens they are) -> the loss of these tokens."""

BLOCKS = 16
"""Parts of a chunk for element-wise work; few enough that kernel launches on a GPU cost nothing."""


@torch.no_grad()
def chunked_logprobs_and_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    *,
    temperature: float,
    chunk_tokens: int,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """log p(target) and H = -sum_v p_v log p_v (nats); p = softmax(hidden weight.T / temperature).

    Without gradient. At most `chunk_tokens` x V logits exist at a time, with intermediates of a
    sixteenth of them. Product and softmax are in fp32 (float64 for float64 `hidden`), also under
    autocast: a bf16 head is the main source of mismatch between trainer and engine (MiniMax-M1,
    https://arxiv.org/abs/2506.13585). `torch.set_float32_matmul_precision("high")` allows TF32 for
    the product.
    """
    dtype = check(hidden, temperature, chunk_tokens)
    logprobs = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
    entropy = torch.empty_like(logprobs)
    with torch.autocast(hidden.device.type, enabled=False):
        head = weight.to(dtype)
        for rows in slices(len(hidden), chunk_tokens):
            logits = hidden[rows].to(dtype) @ head.T
            logprobs[rows], entropy[rows] = evaluate_(logits, targets[rows], temperature)
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
) -> Float[Tensor, ""]:
    """The sum of `objective` over chunks of the two outputs of `chunked_logprobs_and_entropy`.

    Differentiable once, in both inputs. Each chunk's gradient is computed in the forward pass, while
    its logits exist: with z the logits, d log p_y / dz_j = [j = y] - p_j and
    dH / dz_j = -p_j (log p_j + H). Fused linear cross entropy does this for one loss (Liger,
    https://arxiv.org/abs/2410.10989); this function for any loss of both outputs.
    """
    check(hidden, temperature, chunk_tokens)
    return _ChunkedObjective.apply(hidden, weight, targets, objective, temperature, chunk_tokens)  # type: ignore[no-any-return]


class _ChunkedObjective(torch.autograd.Function):
    """Gradients are computed in forward and scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        objective: TokenObjective,
        temperature: float,
        chunk_tokens: int,
    ) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Summed over chunks in fp32: in bf16 small addends would be lost.
        grad_weight = torch.zeros_like(weight, dtype=dtype) if needs_weight else None
        loss = torch.zeros((), dtype=dtype, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            for rows in slices(len(hidden), chunk_tokens):
                chunk = hidden[rows].to(dtype)
                logits = chunk @ head.T
                logprobs, entropy = evaluate_(logits, targets[rows], temperature)
                part, by_logprob, by_entropy = differentiated(objective, logprobs, entropy, rows)
                loss += part
                if needs_hidden or needs_weight:
                    gradient_(logits, targets[rows], entropy, by_logprob, by_entropy, temperature)
                if grad_hidden is not None:
                    grad_hidden[rows] = (logits @ head).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight.addmm_(logits.T, chunk)
                del logits  # else they stay alive with the next chunk's
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:  # type: ignore[override]
        # In place, because the weight's gradient is large; autograd then refuses a second backward.
        scaled = [
            None if gradient is None else gradient.mul_(grad_outputs[0])
            for gradient in ctx.saved_tensors
        ]
        return *scaled, None, None, None, None


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
        by_logprob, by_entropy = torch.autograd.grad(
            loss, leaves, allow_unused=True, materialize_grads=True
        )
    return loss.detach(), by_logprob, by_entropy


def evaluate_(
    logits: Float[Tensor, "C V"], targets: Int[Tensor, " C"], temperature: float
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Log-probs of the targets and entropy; `logits` become log-probs in place."""
    logprobs, entropy = [], []
    for rows in slices(len(logits), -(-len(logits) // BLOCKS)):
        log_p = logits[rows].div_(temperature)
        log_p.sub_(log_p.logsumexp(1, keepdim=True))
        logprobs.append(log_p.gather(1, targets[rows, None]).squeeze(1))
        entropy.append(log_p.exp().mul_(log_p).sum(1).neg_())
    return torch.cat(logprobs), torch.cat(entropy)


def gradient_(
    log_p: Float[Tensor, "C V"],
    targets: Int[Tensor, " C"],
    entropy: Float[Tensor, " C"],
    by_logprob: Float[Tensor, " C"],
    by_entropy: Float[Tensor, " C"],
    temperature: float,
) -> None:
    """Log-probs become, in place, the gradient of the logits before the temperature.

    -p (g_logp + g_H (log p + H)), and + g_logp at the target, over the temperature.
    """
    for rows in slices(len(log_p), -(-len(log_p) // BLOCKS)):
        block, by_target = log_p[rows], by_logprob[rows, None]
        p = block.exp()
        block.add_(entropy[rows, None]).mul_(by_entropy[rows, None]).add_(by_target).mul_(p)
        block.neg_().scatter_add_(1, targets[rows, None], by_target).div_(temperature)


def slices(rows: int, size: int) -> list[slice]:
    """`rows` cut into runs of `size`, the last one shorter."""
    return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]


def check(hidden: Float[Tensor, "N D"], temperature: float, chunk_tokens: int) -> torch.dtype:
    """What the head computes in."""
    assert temperature > 0, f"temperature must be greater than 0, got {temperature}"
    assert chunk_tokens > 0, f"chunk_tokens must be greater than 0, got {chunk_tokens}"
    return torch.promote_types(hidden.dtype, torch.float32)
