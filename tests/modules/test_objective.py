"""The objective's equations, one by one. Their float64 reference is the loop of test_policy_objective.py."""

import math

import pytest
import torch
from torch import Tensor

from ceeh.modules.objective import (
    cispo_loss,
    clipped_policy_loss,
    ea_advantages,
    importance_weights,
    k3_kl,
    sequence_log_ratio,
)

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def tokens(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_tokens(seed: int, count: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, others near them, and advantages of every sign."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -3 * torch.rand(count, generator=generator, dtype=torch.float64)
    other = logprobs + 0.8 * torch.randn(count, generator=generator, dtype=torch.float64)
    return logprobs, other, torch.randn(count, generator=generator, dtype=torch.float64)


def test_policy_loss_literal_case():
    # Ratios 1.5, 1.1, 0.5, 4 and A = 2, 2, -1, -1: -min(3, 1.28 * 2) = -2.56; -2.2;
    # -min(-0.5, -0.8) = 0.8; -max(min(-4, -1.28), 3 * -1) = 3.
    old = tokens(-1.0, -1.0, -1.0, -2.0)
    logprobs = old + tokens(1.5, 1.1, 0.5, 4.0).log()
    loss = clipped_policy_loss(logprobs - old, tokens(2, 2, -1, -1), **CLIP, dual_clip=3.0)
    torch.testing.assert_close(loss, tokens(-2.56, -2.2, 0.8, 3.0))


def test_policy_gradient_is_zero_exactly_where_a_bound_holds_the_token():
    # Gains above 1.28, losses below 0.8 and losses above the dual clip are held; the rest is not.
    ratios = tokens(1.5, 1.2, 0.5, 0.5, 0.9, 1.5, 4.0)
    advantages = tokens(1, 1, 1, -1, -1, -1, -1)
    old = tokens(*[-2.0] * 7)
    logprobs = (old + ratios.log()).requires_grad_()
    clipped_policy_loss(logprobs - old, advantages, **CLIP, dual_clip=3.0).sum().backward()
    # d(-r A)/d logprob = -r A where free.
    torch.testing.assert_close(logprobs.grad, tokens(0, -1.2, -0.5, 0, 0.9, 1.5, 0))


def test_on_policy_gradient_is_the_plain_policy_gradient():
    logprobs, _, advantages = random_tokens(0)
    logprobs.requires_grad_()
    log_ratio = logprobs - logprobs.detach()
    loss = clipped_policy_loss(log_ratio, advantages, **CLIP, dual_clip=3.0)
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_an_enormous_ratio_gives_no_nan(advantage: float):
    # e^499.9 is infinite in fp32.
    logprobs, old = torch.tensor([-0.1], requires_grad=True), torch.tensor([-500.0])
    loss = clipped_policy_loss(logprobs - old, torch.tensor([advantage]), **CLIP, dual_clip=3.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    torch.testing.assert_close(logprobs.grad, torch.zeros(1))


def test_k3_literal_case():
    # d = ln 2: 2 - ln 2 - 1 = 0.30685; d = 0: 0; d = -50: 50 - 1 + exp(-50).
    got = k3_kl(tokens(-2, -1, -1), tokens(-2 + math.log(2), -1, -51))
    torch.testing.assert_close(got, tokens(1 - math.log(2), 0, 49))


def test_k3_keeps_its_gradient_where_the_reference_log_prob_is_low():
    # d = reference - logprob; dk3/dlogprob = 1 - exp(d): 1 - exp(-40) = 1, and 0 at d = 0.
    logprobs = tokens(-1, -1).requires_grad_()
    k3_kl(logprobs, tokens(-41, -1)).sum().backward()
    torch.testing.assert_close(logprobs.grad, tokens(1, 0))


def test_k3_of_two_close_policies_survives_fp32():
    # d = 1e-4: d^2 / 2 = 5e-9, which exp(d) - d - 1 loses in fp32 (its last digit is 6e-8).
    got = k3_kl(torch.tensor([0.0]), torch.tensor([1e-4]))
    torch.testing.assert_close(got, torch.tensor([5e-9]), rtol=1e-2, atol=0)


def test_k3_is_never_negative_and_averages_to_the_kl_under_the_policy():
    p, q = tokens(0.7, 0.2, 0.1), tokens(0.5, 0.25, 0.25)
    terms = k3_kl(p.log(), q.log())
    assert (terms >= 0).all()
    torch.testing.assert_close((p * terms).sum(), (p * (p / q).log()).sum())


def test_ea_literal_case():
    # alpha 0.4, kappa 2. Hard, A = 1: + min(0.4, 0.5) and min(0.8, 0.5). Hard, A = -0.2: + 0.1.
    # Hard and all incorrect, A = 0: + 0. Easy: A.
    advantages, entropy = tokens(1, 1, -0.2, 0, 1), tokens(1, 2, 1, 1, 1)
    got = ea_advantages(advantages, entropy, tokens(1, 1, 1, 1, 0), alpha=0.4, kappa=2.0)
    torch.testing.assert_close(got, tokens(1.4, 1.5, -0.1, 0, 1))


def test_ea_never_flips_the_sign_of_an_advantage():
    _, other, advantages = random_tokens(0, 200)
    got = ea_advantages(advantages, 5 * other.abs(), torch.ones(200), alpha=0.4, kappa=1.01)
    assert (got.sign() == advantages.sign()).all()


def test_cispo_literal_case_and_its_gradient_beyond_the_clip():
    # Ratios 1.5, 0.5, 6 and A = 2, -1, 1; bounds 0 and 5: -1.5 * 2 * -1, -0.5 * -1 * -2, -5 * 1 * -3.
    old = tokens(-1, -2, -3) - tokens(1.5, 0.5, 6).log()
    logprobs, advantages = tokens(-1, -2, -3).requires_grad_(), tokens(2, -1, 1)
    loss = cispo_loss(logprobs, logprobs - old, advantages, clip_low=1.0, clip_high=4.0)
    torch.testing.assert_close(loss, tokens(3, -1, 15))
    loss.sum().backward()
    # -clip(r) A, also where r is clipped; the clipped loss gives that token 0.
    torch.testing.assert_close(logprobs.grad, tokens(-3, 0.5, -5))


def test_gspo_has_the_value_and_gradient_of_the_sequence_ratio():
    # Two responses of 2 and 3 tokens; s = exp(mean log-ratio), loss mean_i -s_i A_i within the bounds.
    row, lengths = torch.tensor([0, 0, 1, 1, 1]), tokens(2, 3)
    old, advantages = tokens(-1.1, -0.8, -2, -1, -0.5), tokens(1.5, -0.5)
    logprobs = tokens(-1, -1, -1.9, -1.2, -0.4).requires_grad_()
    s = (tokens(0, 0).index_add(0, row, logprobs - old) / lengths).exp()
    (expected,) = torch.autograd.grad((-s * advantages).mean(), logprobs)
    mean = (tokens(0, 0).index_add(0, row, logprobs.detach() - old) / lengths)[row]
    log_ratio = sequence_log_ratio(mean, logprobs)
    torch.testing.assert_close(log_ratio.exp(), s[row])
    # (-0.1 + 0.2) / 2 = -0.05 below 0: exp((0.1 - 0.2) / 2) = 0.951229.
    assert s[0].item() == pytest.approx(0.951229, rel=1e-6)
    loss = clipped_policy_loss(log_ratio, advantages[row], **CLIP, dual_clip=None)
    (got,) = torch.autograd.grad((loss / lengths[row]).sum() / 2, logprobs)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Two rows; ratios 0.5, 1, 3 | 1.5, 1.5, padding; cap 2.
        ("token", [[0.5, 1, 2], [1.5, 1.5, 1]]),
        ("token_mask", [[0.5, 1, 0], [1.5, 1.5, 1]]),
        # Products 0.5 * 1 * 3 = 1.5 and 1.5 * 1.5 = 2.25.
        ("sequence", [[1.5, 1.5, 1.5], [2, 2, 2]]),
        ("sequence_mask", [[1.5, 1.5, 1.5], [0, 0, 0]]),
    ],
)
def test_importance_weights_literal_case(kind: str, expected: list[list[float]]):
    ratios = torch.tensor([[0.5, 1, 3], [1.5, 1.5, 1]], dtype=torch.float64)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    old = ratios.log().masked_fill(~mask, float("nan"))  # padding must not matter
    got = importance_weights(old, torch.zeros(2, 3).double(), mask, kind=kind, cap=2.0)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_an_enormous_importance_ratio_is_capped_before_it_overflows():
    old, mask = torch.tensor([[800.0]]), torch.tensor([[True]])
    assert importance_weights(old, torch.zeros(1, 1), mask, kind="token", cap=2.0).item() == 2.0
