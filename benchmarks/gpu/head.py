"""Loss and gradients of the chunked head, and their error against float64."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu.measured import BF16, DEVICE, Row, row, seconds
from ceeh.modules.head import chunked_logprobs_and_entropy, chunked_objective


def objective(logprobs: Tensor, entropy: Tensor, rows: slice) -> Tensor:
    return logprobs.sum() + 0.01 * entropy.sum()


def head_inputs(tokens: int, width: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight, targets."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=DEVICE, requires_grad=True)
    weight = 0.02 * torch.randn(vocabulary, width, device=DEVICE)
    return hidden, weight, torch.randint(vocabulary, (tokens,), device=DEVICE)


def head_step(
    tokens: int, width: int, vocabulary: int, *, operands: torch.dtype | None, trained: bool
) -> Callable[[], None]:
    """Forward and backward; under LoRA the weight is frozen, and in bf16 where operands are."""
    hidden, weight, targets = head_inputs(tokens, width, vocabulary)
    head = weight if trained or operands is None else weight.to(operands)
    head.requires_grad_(trained)

    def step() -> None:
        hidden.grad = head.grad = None
        chunked_objective(
            hidden,
            head,
            targets,
            objective,
            temperature=1.0,
            chunk_tokens=2048,
            operands=operands,
        ).backward()

    return step


def measure_head(tiny: bool) -> Iterator[Row]:
    sizes = (64, 32, 500) if tiny else (8192, 1536, 151_936)
    hidden, weight, targets = head_inputs(256 if not tiny else 64, *sizes[1:])
    for name, operands in (("fp32", None), ("bf16", BF16)):
        for trained in (True, False):
            step = head_step(*sizes, operands=operands, trained=trained)
            part = "loss and both gradients" if trained else "weight frozen"
            yield row(f"{name} operands, {part}", 1000 * seconds(step, 3), "ms")
        given = {"temperature": 1.0, "chunk_tokens": 2048}
        found, _ = chunked_logprobs_and_entropy(hidden, weight, targets, operands=operands, **given)
        exact, _ = chunked_logprobs_and_entropy(hidden.double(), weight.double(), targets, **given)
        error = (found - exact).abs()
        largest = f"at most {float(error.max()):.1e}"
        yield row(f"{name} operands, log-prob error", float(error.mean()), "nats", largest)
