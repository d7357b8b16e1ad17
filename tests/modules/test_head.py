"""The chunked head: log-prob and entropy, their gradients, their memory."""

import math

import pytest
import torch
from live_memory import LiveMemory
from torch import Tensor

from ceeh.modules.head import chunked_logprobs_and_entropy, chunked_objective
from tests.modules.small_heads import plain, random_head, weighted


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
