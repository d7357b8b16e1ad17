"""The chunked head in bf16: under autocast, with bf16 inputs, and with bf16 operands of its products."""

from typing import Any

import torch

from ceeh.modules.head import chunked_logprobs_and_entropy, chunked_objective
from tests.modules.small_heads import plain, random_head, weighted


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
