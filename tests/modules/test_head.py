"""The chunked head: log-prob and entropy, their gradients, their memory."""

import math
from typing import Any

import pytest
import torch
from live_memory import LiveMemory
from torch import Tensor

from ceeh.modules.head import chunked_logprobs_and_entropy, chunked_objective
from ceeh.modules.logits import BLOCK, PLAIN, LogitTransform, logit_gradient, token_values


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


def logits_of(
    hidden: Tensor, weight: Tensor, bias: Tensor | float = 0.0, transform: LogitTransform = PLAIN
) -> Tensor:
    """As transformers computes them, out of place."""
    logits = (hidden @ weight.T + bias) * transform.scale
    return logits if transform.cap is None else torch.tanh(logits / transform.cap) * transform.cap


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, *head: Any):
    log_p = (logits_of(hidden, weight, *head) / temperature).log_softmax(1)
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


def test_the_objective_sees_every_token_once_with_the_values_of_the_evaluation():
    hidden, weight, targets = random_head(11)
    seen: list[tuple[int, float, float]] = []

    def objective(logprobs: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        places = range(11)[tokens]
        seen.extend(zip(places, logprobs.tolist(), entropy.tolist(), strict=True))
        return logprobs.sum()

    chunked_objective(hidden, weight, targets, objective, temperature=0.7, chunk_tokens=4)
    values = chunked_logprobs_and_entropy(hidden, weight, targets, temperature=0.7, chunk_tokens=4)
    expected = zip(range(11), values[0].tolist(), values[1].tolist(), strict=True)
    assert seen == list(expected)


def test_a_second_backward_pass_is_refused():
    hidden, weight, targets = random_head(4)
    loss = weighted(hidden, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (1.0, 0.0)], ids=["entropy", "log-prob"])
def test_each_output_alone_has_its_gradient(a: float, b: float):
    hidden, weight, targets = random_head(4)
    loss = weighted(hidden, weight, targets, a=a, b=b, temperature=0.6, chunk_tokens=3)
    got = torch.autograd.grad(loss, (hidden, weight))
    logprobs, entropy = plain(hidden, weight, targets, 0.6)
    expected = torch.autograd.grad((a * logprobs + b * entropy).sum(), (hidden, weight))
    torch.testing.assert_close(got, expected)
    assert min(gradient.abs().max().item() for gradient in got) > 1e-3


def test_a_frozen_input_gets_no_gradient():
    hidden, weight, targets = random_head(6)
    expected = torch.autograd.grad(
        torch.cat(plain(hidden, weight, targets, 1.0)).sum(), (hidden, weight)
    )
    weighted(hidden, weight.detach(), targets, chunk_tokens=2).backward()
    torch.testing.assert_close(hidden.grad, expected[0])
    assert weight.grad is None
    weighted(hidden.detach(), weight, targets, chunk_tokens=2).backward()
    torch.testing.assert_close(weight.grad, expected[1])


def test_no_tokens_give_empty_outputs_and_zero_gradients():
    hidden, weight, targets = random_head(0)
    outputs = chunked_logprobs_and_entropy(hidden, weight, targets, temperature=1.0, chunk_tokens=4)
    assert [output.shape for output in outputs] == [(0,), (0,)]
    loss = weighted(hidden, weight, targets)
    assert loss.item() == 0
    gradients = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(gradients, (torch.zeros_like(hidden), torch.zeros_like(weight)))


def test_memory_is_one_chunk_of_logits_and_intermediates_of_six_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, width, vocabulary, chunk = 128, 4, 500, 32
    hidden, weight, targets = random_head(tokens, width, vocabulary, dtype=torch.float32)
    logits = 4 * chunk * vocabulary
    monkeypatch.setattr("ceeh.modules.logits.BLOCK", vocabulary)  # a token's logits
    small = 4 * (2 * vocabulary * width + 8 * tokens * width) + 6 * 4 * vocabulary
    given = {"temperature": 1.0, "chunk_tokens": chunk}
    peaks = []
    for run in (
        lambda: chunked_logprobs_and_entropy(hidden, weight, targets, **given),
        lambda: weighted(hidden, weight.detach(), targets, **given).backward(),
        lambda: weighted(hidden, weight, targets, **given).backward(),
    ):
        with LiveMemory([hidden, weight, targets]) as live:
            run()
        peaks.append(live.peak)
        assert logits < live.peak < logits + small
    _, frozen, trained = peaks
    assert trained - frozen == weight.nbytes, "a frozen head needs no gradient of the weight"


def test_bf16_autocast_computes_in_fp32_forward_and_backward():
    exact_hidden, exact_weight, targets = random_head(9, dtype=torch.float32)
    exact = weighted(exact_hidden, exact_weight, targets, temperature=0.6)
    hidden, weight, _ = random_head(9, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = weighted(hidden, weight, targets, temperature=0.6)
        got.backward()
    exact.backward()
    torch.testing.assert_close(got, exact, rtol=0, atol=0)
    torch.testing.assert_close(hidden.grad, exact_hidden.grad, rtol=0, atol=0)
    torch.testing.assert_close(weight.grad, exact_weight.grad, rtol=0, atol=0)


def test_bf16_inputs_give_fp32_outputs_of_those_inputs_and_bf16_gradients():
    hidden, weight, targets = random_head(9, dtype=torch.bfloat16)
    outputs = chunked_logprobs_and_entropy(hidden, weight, targets, temperature=0.6, chunk_tokens=4)
    expected = plain(hidden.float(), weight.float(), targets, 0.6)
    torch.testing.assert_close(outputs, expected)
    weighted(hidden, weight, targets, temperature=0.6).backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    gradient = torch.autograd.grad((expected[0] + expected[1]).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, gradient)


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


def test_bf16_operands_cost_thousandths_of_a_nat_and_fp32_none() -> None:
    """Against float64, at the width of a 1.5B model and the spread of its logits, 0.8.

    Measured: 1.3e-3 nats in the mean and 3.5e-3 at most, 1.8e-3 relative in both gradients.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 1536, generator=generator)
    weight = 0.02 * torch.randn(1000, 1536, generator=generator)
    targets = torch.randint(1000, (64,), generator=generator)
    found = {}
    for name, dtype, operands in (
        ("exact", torch.float64, None),
        ("fp32", torch.float32, None),
        ("bf16", torch.float32, torch.bfloat16),
    ):
        h, w = (x.to(dtype, copy=True).requires_grad_() for x in (hidden, weight))
        given: Any = {"temperature": 1.0, "chunk_tokens": 24, "operands": operands}
        logprobs, entropy = chunked_logprobs_and_entropy(h, w, targets, **given)
        loss = chunked_objective(h, w, targets, lambda a, b, _: a.sum() + b.sum(), **given)
        loss.backward()
        assert h.grad is not None
        assert w.grad is not None
        found[name] = [x.detach().double() for x in (logprobs, entropy, h.grad, w.grad)]
    exact = found.pop("exact")
    for name, mean, largest, relative in (("fp32", 1e-6, 1e-5, 2e-6), ("bf16", 3e-3, 1e-2, 4e-3)):
        error = (found[name][0] - exact[0]).abs()
        assert error.mean() < mean
        assert error.max() < largest
        for got, right in zip(found[name][2:], exact[2:], strict=True):
            assert (got - right).norm() < relative * right.norm()
    assert (found["bf16"][0] - exact[0]).abs().mean() > 1e-4  # it did multiply bf16
