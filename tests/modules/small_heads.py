"""A small random head, what autograd gives on its full logits, and a sum through the chunked head."""

from typing import Any

import torch
from torch import Tensor

from ceeh.modules.head import chunked_objective
from ceeh.modules.logits import PLAIN, LogitTransform


def random_head(
    tokens: int, width: int = 5, vocabulary: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def logits_of(
    hidden: Tensor, weight: Tensor, bias: Tensor | float = 0.0, transform: LogitTransform = PLAIN
) -> Tensor:
    """As transformers computes them, out of place."""
    logits = (hidden @ weight.T + bias) * transform.scale
    return logits if transform.cap is None else torch.tanh(logits / transform.cap) * transform.cap


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, *head: Any):
    log_p = (logits_of(hidden, weight, *head) / temperature).log_softmax(1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(1)


def weighted(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    a: float | Tensor = 1.0,
    b: float | Tensor = 1.0,
    temperature: float = 1.0,
    chunk_tokens: int = 4,
) -> Tensor:
    """sum_n a_n log p_n + b_n H_n through the chunked head."""
    grad_logprob, grad_entropy = (torch.as_tensor(each).expand(len(hidden)) for each in (a, b))

    def objective(logprobs: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        return (grad_logprob[tokens] * logprobs + grad_entropy[tokens] * entropy).sum()

    return chunked_objective(
        hidden, weight, targets, objective, temperature=temperature, chunk_tokens=chunk_tokens
    )
