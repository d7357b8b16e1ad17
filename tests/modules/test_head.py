"""The chunked head: log-prob and entropy, their gradients, their memory."""

import math
from typing import Any

import pytest
import torch
from live_memory import LiveMemory
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ceeh.modules.head import chunked_logprobs_and_entropy


def reference_logprobs_and_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float
) -> tuple[list[float], list[float]]:
    logprobs, entropies = [], []
    for row, target in zip(hidden.tolist(), targets.tolist(), strict=True):
        logits = [
            sum(h * w for h, w in zip(row, column, strict=True)) / temperature
            for column in weight.tolist()
        ]
        largest = max(logits)
        log_z = largest + math.log(sum(math.exp(z - largest) for z in logits))
        logprobs.append(logits[target] - log_z)
        entropies.append(-sum(math.exp(z - log_z) * (z - log_z) for z in logits))
    return logprobs, entropies


def random_head(
    tokens: int, width: int = 5, vocabulary: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float):
    log_p = (hidden @ weight.T / temperature).log_softmax(1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(1)


def test_literal_case():
    # Width 1, hidden 2, weights 0 and ln 3, temperature 2: logits 0 and ln 3, p = 1/4 and 3/4.
    # log p(1) = ln 3/4; H = 1/4 ln 4 + 3/4 ln 4/3 = 0.56234.
    logprobs, entropy = chunked_logprobs_and_entropy(
        torch.tensor([[2.0]], dtype=torch.float64),
        torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64),
        torch.tensor([1]),
        temperature=2.0,
        chunk_tokens=8,
    )
    assert logprobs.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("chunk_tokens", [1, 3, 4, 11, 100])
def test_agrees_with_a_slow_loop_whatever_the_chunk(temperature: float, chunk_tokens: int):
    hidden, weight, targets = random_head(11)
    logprobs, entropy = chunked_logprobs_and_entropy(
        hidden, weight, targets, temperature=temperature, chunk_tokens=chunk_tokens
    )
    expected = reference_logprobs_and_entropy(hidden, weight, targets, temperature)
    torch.testing.assert_close(logprobs.tolist(), expected[0])
    torch.testing.assert_close(entropy.tolist(), expected[1])


@pytest.mark.parametrize("chunk_tokens", [2, 5])
def test_gradients_of_both_outputs_in_both_inputs_are_exact(chunk_tokens: int):
    hidden, weight, targets = random_head(5)
    assert torch.autograd.gradcheck(
        lambda h, w: chunked_logprobs_and_entropy(
            h, w, targets, temperature=0.7, chunk_tokens=chunk_tokens
        ),
        (hidden, weight),
    )


def test_entropy_alone_has_the_gradient_of_the_entropy():
    hidden, weight, targets = random_head(4)
    _, entropy = chunked_logprobs_and_entropy(
        hidden, weight, targets, temperature=0.6, chunk_tokens=3
    )
    got = torch.autograd.grad(entropy.sum(), (hidden, weight))
    expected = torch.autograd.grad(plain(hidden, weight, targets, 0.6)[1].sum(), (hidden, weight))
    torch.testing.assert_close(got, expected)
    assert min(gradient.abs().max().item() for gradient in got) > 1e-3


def test_a_frozen_weight_gets_no_gradient_and_costs_none():
    hidden, weight, targets = random_head(6)
    frozen = weight.detach()
    logprobs, entropy = chunked_logprobs_and_entropy(
        hidden, frozen, targets, temperature=1.0, chunk_tokens=2
    )
    with LargestTensor() as seen:
        (logprobs.sum() + entropy.sum()).backward()
    expected = torch.autograd.grad(torch.cat(plain(hidden, frozen, targets, 1.0)).sum(), hidden)
    torch.testing.assert_close(hidden.grad, expected[0])
    assert frozen.grad is None
    assert (7, 5) not in seen.made  # V x D


def test_a_frozen_hidden_leaves_the_weights_gradient_whole():
    hidden, weight, targets = random_head(6)
    logprobs, _ = chunked_logprobs_and_entropy(
        hidden.detach(), weight, targets, temperature=1.0, chunk_tokens=4
    )
    logprobs.sum().backward()
    expected = torch.autograd.grad(plain(hidden, weight, targets, 1.0)[0].sum(), weight)
    torch.testing.assert_close(weight.grad, expected[0])


class LargestTensor(TorchDispatchMode):
    """Notes the shape of every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        views = result if isinstance(result, (tuple, list)) else (result,)
        self.made |= {tuple(part.shape) for part in views if isinstance(part, Tensor)}
        return result


def test_forward_and_backward_never_hold_more_than_a_chunk_of_logits():
    tokens, vocabulary, chunk = 64, 33, 8
    hidden, weight, targets = random_head(tokens, width=4, vocabulary=vocabulary)
    with LargestTensor() as seen:
        logprobs, entropy = chunked_logprobs_and_entropy(
            hidden, weight, targets, temperature=1.0, chunk_tokens=chunk
        )
        (logprobs.sum() + entropy.sum()).backward()
    sizes = [math.prod(shape) for shape in seen.made if vocabulary in shape]
    assert max(sizes) == chunk * vocabulary


def test_no_tokens_give_empty_outputs_and_zero_gradients():
    hidden, weight, targets = random_head(0)
    logprobs, entropy = chunked_logprobs_and_entropy(
        hidden, weight, targets, temperature=1.0, chunk_tokens=4
    )
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, 5)
    torch.testing.assert_close(weight.grad, torch.zeros(7, 5, dtype=torch.float64))


def test_two_chunks_of_logits_live_at_once_and_no_more():
    # Log-probs (in their place the gradient) and probabilities; those of the chunk before are gone.
    tokens, width, vocabulary, chunk = 64, 4, 500, 16
    hidden, weight, targets = random_head(tokens, width, vocabulary, dtype=torch.float32)
    with LiveMemory([hidden, weight, targets]) as live:
        logprobs, entropy = chunked_logprobs_and_entropy(
            hidden, weight, targets, temperature=1.0, chunk_tokens=chunk
        )
        forward = live.peak
        (logprobs.sum() + entropy.sum()).backward()
    logits, rest = 4 * chunk * vocabulary, 4 * (vocabulary * width + 8 * tokens * width)
    assert 2 * logits < forward < 2 * logits + rest
    assert 2 * logits < live.peak < 2 * logits + rest


def test_bf16_autocast_computes_in_fp32_forward_and_backward():
    exact_hidden, exact_weight, targets = random_head(9, dtype=torch.float32)
    exact = chunked_logprobs_and_entropy(
        exact_hidden, exact_weight, targets, temperature=0.6, chunk_tokens=4
    )
    hidden, weight, _ = random_head(9, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = chunked_logprobs_and_entropy(hidden, weight, targets, temperature=0.6, chunk_tokens=4)
        (got[0] + got[1]).sum().backward()
    (exact[0] + exact[1]).sum().backward()
    torch.testing.assert_close(got, exact, rtol=0, atol=0)
    torch.testing.assert_close(hidden.grad, exact_hidden.grad, rtol=0, atol=0)
    torch.testing.assert_close(weight.grad, exact_weight.grad, rtol=0, atol=0)


def test_bf16_inputs_give_fp32_outputs_of_those_inputs_and_bf16_gradients():
    hidden, weight, targets = random_head(9, dtype=torch.bfloat16)
    logprobs, entropy = chunked_logprobs_and_entropy(
        hidden, weight, targets, temperature=0.6, chunk_tokens=4
    )
    expected = plain(hidden.float(), weight.float(), targets, 0.6)
    torch.testing.assert_close((logprobs, entropy), expected)
    (logprobs + entropy).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    gradient = torch.autograd.grad((expected[0] + expected[1]).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, gradient)


def test_logits_far_apart_stay_finite():
    # Logits 0 and 500: p = 1 for one, underflow for the other; H = 0, and its gradient too.
    hidden = torch.tensor([[1.0]], requires_grad=True)
    logprobs, entropy = chunked_logprobs_and_entropy(
        hidden,
        torch.tensor([[0.0], [500.0]]),
        torch.tensor([0]),
        temperature=1.0,
        chunk_tokens=1,
    )
    assert (logprobs.item(), entropy.item()) == (-500.0, 0.0)
    entropy.sum().backward()
    torch.testing.assert_close(hidden.grad, torch.zeros(1, 1))
