"""python -m benchmarks.head: log-prob and entropy, forward and backward, in chunks or all at once.

The reference is the obvious code: logits of all tokens, log_softmax, gather, entropy, autograd.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Measurement, in_turn, report, share
from benchmarks.memory import MIB, peak_memory
from ceeh.modules.head import chunked_objective

TEMPERATURE = 0.7


def token_loss(logprobs: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
    return logprobs.sum() + 0.01 * entropy.sum()


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:
    return chunked_objective(
        hidden, weight, targets, token_loss, temperature=TEMPERATURE, chunk_tokens=chunk_tokens
    )


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:
    logits = hidden @ weight.T
    log_p = torch.log_softmax(logits / TEMPERATURE, dim=-1)
    logprobs = log_p.gather(1, targets[:, None]).squeeze(1)
    return token_loss(logprobs, -(log_p.exp() * log_p).sum(1), slice(None))


def step(head: Callable, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> None:
    """Forward and backward."""
    hidden.grad = weight.grad = None
    head(hidden, weight, targets, chunk).backward()


def gradient_error(tokens: int, width: int, vocabulary: int, chunk: int) -> float:
    """Largest relative difference of the two gradients of both inputs, in float64."""
    torch.manual_seed(1)
    hidden = torch.randn(tokens, width, dtype=torch.float64, requires_grad=True)
    weight = (0.1 * torch.randn(vocabulary, width, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))
    losses = (head(hidden, weight, targets, chunk) for head in (ours, full_logits))
    gradients = [torch.autograd.grad(loss, (hidden, weight)) for loss in losses]
    return max(
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(*gradients, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--chunk", type=int, default=128)  # below the tokens, or nothing is cut
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    hidden = torch.randn(given.tokens, given.width, device=device, requires_grad=True)
    weight = 0.02 * torch.randn(given.vocabulary, given.width, device=device)
    targets = torch.randint(given.vocabulary, (given.tokens,), device=device)
    measurements, details = [], {}
    for kind in ("frozen", "trained"):
        weight.requires_grad_(kind == "trained")
        calls = {
            name: partial(step, head, hidden, weight, targets, given.chunk)
            for name, head in (("ours", ours), ("full", full_logits))
        }
        seconds = details[kind] = in_turn(calls, repeats=given.repeats, warmups=0)
        # After the timing: a matrix library keeps the buffers of its first call for good.
        peaks = {}
        for name, call in calls.items():
            hidden.grad = weight.grad = None
            with peak_memory() as peak:
                call()
            peaks[name] = peak[0] / MIB
        measurements += [
            share(f"memory, {kind} head", [peaks["ours"]], [peaks["full"]], "MiB"),
            share(f"time, {kind} head", seconds["ours"], seconds["full"]),
        ]
    error = gradient_error(64, 128, 5000, 16)
    measurements.append(Measurement(name="gradient error in float64", value=error))
    report("head", measurements, settings=vars(given), details=details)


if __name__ == "__main__":
    main()
