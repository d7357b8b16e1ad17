"""The objective's equations, one by one. Their float64 reference is the loop of test_policy_objective.py."""

import math

import pytest
import torch
from torch import Tensor

from ceeh.modules.objective import (
    clipped_policy_loss,
    ea_advantages,
    entropy_anneal,
    importance_weights,
    k3_kl,
    me_weights,
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
    loss = clipped_policy_loss(logprobs, old, tokens(2, 2, -1, -1), **CLIP, dual_clip=3.0)
    torch.testing.assert_close(loss, tokens(-2.56, -2.2, 0.8, 3.0))


def test_policy_gradient_is_zero_exactly_where_a_bound_holds_the_token():
    # Gains above 1.28, losses below 0.8 and losses above the dual clip are held; the rest is not.
    ratios = tokens(1.5, 1.2, 0.5, 0.5, 0.9, 1.5, 4.0)
    advantages = tokens(1, 1, 1, -1, -1, -1, -1)
    old = tokens(*[-2.0] * 7)
    logprobs = (old + ratios.log()).requires_grad_()
    clipped_policy_loss(logprobs, old, advantages, **CLIP, dual_clip=3.0).sum().backward()
    # d(-r A)/d logprob = -r A where free.
    torch.testing.assert_close(logprobs.grad, tokens(0, -1.2, -0.5, 0, 0.9, 1.5, 0))


def test_on_policy_gradient_is_the_plain_policy_gradient():
    logprobs, _, advantages = random_tokens(0)
    logprobs.requires_grad_()
    loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages, **CLIP, dual_clip=3.0)
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_an_enormous_ratio_gives_no_nan(advantage: float):
    # e^499.9 is infinite in fp32.
    logprobs, old = torch.tensor([-0.1], requires_grad=True), torch.tensor([-500.0])
    loss = clipped_policy_loss(logprobs, old, torch.tensor([advantage]), **CLIP, dual_clip=3.0)
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


def test_anneal_falls_from_one_to_zero_and_never_below():
    # (1 + cos(pi t)) / 2 at 0, 1/4, 1/2, 3/4, 1.
    values = [entropy_anneal(t / 4, "cosine") for t in range(5)]
    torch.testing.assert_close(values, [1.0, 0.853553, 0.5, 0.146447, 0.0], rtol=1e-5, atol=1e-6)
    assert min(entropy_anneal(t / 100, "cosine") for t in range(101)) >= 0
    assert {entropy_anneal(t / 4, "none") for t in range(5)} == {1.0}


def test_me_weights_literal_case():
    # 0.001 * 0.5 for easy tokens, five times that for hard ones; half hard: (1 + 4 / 2) = 3 times.
    got = me_weights(tokens(0, 1, 0.5), coefficient=0.001, hard_factor=5.0, anneal=0.5)
    torch.testing.assert_close(got, tokens(0.0005, 0.0025, 0.0015))


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


def test_importance_weights_literal_case():
    # Ratios 0.5, 1, 3, cap 2; e^800 overflows before the cap and must not matter.
    old = tokens(math.log(0.5), 0, math.log(3), 800)
    got = importance_weights(old, tokens(0, 0, 0, 0), cap=2.0)
    torch.testing.assert_close(got, tokens(0.5, 1, 2, 2))
