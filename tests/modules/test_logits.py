"""A chunk's logits: caps, scales and biases against full logits, extremes, and what CUDA compiles."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ceeh.modules.head import chunked_logprobs_and_entropy, chunked_objective
from ceeh.modules.logits import BLOCK, PLAIN, LogitTransform, logit_gradient, token_values
from tests.modules.small_heads import plain, random_head, weighted

TRANSFORMS = {
    "Gemma 2": LogitTransform(cap=2.0),
    "Cohere": LogitTransform(scale=0.0625),
    "Granite": LogitTransform(scale=1 / 8),
    "a cap after a scale": LogitTransform(scale=3.0, cap=1.5),
    "plain": PLAIN,
}


@pytest.mark.parametrize("block", [7, 14, BLOCK], ids=["a token", "two tokens", "default"])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 100])
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_objective_that_mixes_both_outputs_equals_autograd_on_full_logits(
    name: str, with_bias: bool, chunk_tokens: int, block: int, monkeypatch: pytest.MonkeyPatch
):
    """For every cap, scale and bias, and whatever the chunk and the block, of a vocabulary of 7."""
    monkeypatch.setattr("ceeh.modules.logits.BLOCK", block)
    hidden, weight, targets = random_head(11)
    transform, inputs, bias = TRANSFORMS[name], [hidden, weight], None
    if with_bias:
        bias = torch.linspace(-2, 2, len(weight), dtype=torch.float64).requires_grad_()
        inputs.append(bias)
    settings: dict[str, Any] = {"temperature": 0.6, "bias": bias, "transform": transform}
    settings["chunk_tokens"] = chunk_tokens
    expected = plain(hidden, weight, targets, 0.6, 0.0 if bias is None else bias, transform)
    values = chunked_logprobs_and_entropy(hidden, weight, targets, **settings)
    torch.testing.assert_close(values, expected)

    def mixed(logprobs: Tensor, entropy: Tensor) -> Tensor:
        return (logprobs.exp() * entropy - 0.3 * entropy**2).sum()

    loss = chunked_objective(
        hidden,
        weight,
        targets,
        lambda logprobs, entropy, _: mixed(logprobs, entropy),
        **settings,
    )
    torch.testing.assert_close(
        torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * mixed(*expected), inputs)
    )


def test_logits_at_their_cap_have_no_gradient():
    # Products 0 and 500, cap 2: logits 0 and 2, and tanh is flat there.
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight, targets = torch.tensor([[0.0], [500.0]]).requires_grad_(), torch.tensor([0])
    loss = chunked_objective(
        hidden,
        weight,
        targets,
        lambda logprobs, entropy, _: logprobs.sum(),
        temperature=1.0,
        chunk_tokens=1,
        transform=LogitTransform(cap=2.0),
    )
    assert loss.item() == pytest.approx(-math.log(1 + math.exp(2)))
    loss.backward()
    # d log p(0) / dz_0 = 1 - p(0) = e^2 / (1 + e^2), where the slope of the cap is 1.
    torch.testing.assert_close(weight.grad, torch.tensor([[0.8807971], [0.0]]))


def test_logits_far_apart_stay_finite():
    # Logits 0 and 500: p = 1 for one, underflow for the other; H = 0, and its gradient too.
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight, targets = torch.tensor([[0.0], [500.0]]), torch.tensor([0])
    logprobs, entropy = chunked_logprobs_and_entropy(
        hidden, weight, targets, temperature=1.0, chunk_tokens=1
    )
    assert (logprobs.item(), entropy.item()) == (-500.0, 0.0)
    weighted(hidden, weight, targets, a=0.0).backward()
    torch.testing.assert_close(hidden.grad, torch.zeros(1, 1))


def test_what_cuda_compiles_compiles_without_a_break() -> None:
    hidden, weight, targets = random_head(11)
    x = (hidden @ weight.T).detach()
    evaluate, slope = (
        torch.compile(work, fullgraph=True, backend="eager")
        for work in (token_values, logit_gradient)
    )
    for rows in (slice(0, 8), slice(8, 11)):
        found = evaluate(x[rows], targets[rows], 0.7, None, 1.0, None)
        torch.testing.assert_close(
            found, token_values(x[rows], targets[rows], 0.7, None, 1.0, None)
        )
        given = targets[rows], found[1], found[2], found[0], found[1], 0.7, None, 1.0, 2.0
        torch.testing.assert_close(
            slope(x[rows], *given, torch.float64), logit_gradient(x[rows], *given, torch.float64)
        )
