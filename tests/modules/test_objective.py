"""The objective's equations, one by one; the whole is in test_policy_objective.py."""

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
    mismatch_kl,
)

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def ragged(seed: int, rows: int = 6, tokens: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs, others near them, advantages of every sign, and a ragged mask."""
    generator = torch.Generator().manual_seed(seed)
    size = (rows, tokens)
    logprobs = -3 * torch.rand(size, generator=generator, dtype=torch.float64)
    other = logprobs + 0.8 * torch.randn(size, generator=generator, dtype=torch.float64)
    advantages = torch.randn(size, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, tokens, (rows, 1), generator=generator)
    start = torch.randint(0, 3, (rows, 1), generator=generator)
    positions = torch.arange(tokens)
    return logprobs, other, advantages, (positions >= start) & (positions < start + lengths)


def per_token(formula, mask: Tensor, *tensors: Tensor) -> Tensor:
    """`formula` of python floats at every response token, 0 elsewhere."""
    result = torch.zeros(mask.shape, dtype=torch.float64)
    for r, t in mask.nonzero().tolist():
        result[r, t] = formula(*(tensor[r, t].item() for tensor in tensors))
    return result


def reference_loss(logprob: float, old: float, advantage: float, dual: float | None) -> float:
    ratio = math.exp(logprob - old)
    gain = min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
    if dual is not None and advantage < 0:
        gain = max(gain, dual * advantage)
    return -gain


def test_policy_loss_literal_case():
    # Ratios 1.5, 1.1, 0.5, 4 and A = 2, 2, -1, -1: -min(3, 1.28 * 2) = -2.56; -2.2;
    # -min(-0.5, -0.8) = 0.8; -max(min(-4, -1.28), 3 * -1) = 3.
    old = row(-1.0, -1.0, -1.0, -2.0)
    logprobs = old + row(1.5, 1.1, 0.5, 4.0).log()
    loss = clipped_policy_loss(
        logprobs, old, row(2, 2, -1, -1), torch.ones(1, 4, dtype=torch.bool), **CLIP, dual_clip=3.0
    )
    torch.testing.assert_close(loss, row(-2.56, -2.2, 0.8, 3.0))


@pytest.mark.parametrize("dual", [3.0, None])
@pytest.mark.parametrize("seed", range(3))
def test_policy_loss_agrees_with_a_slow_loop(seed: int, dual: float | None):
    logprobs, old, advantages, mask = ragged(seed)
    loss = clipped_policy_loss(logprobs, old, advantages, mask, **CLIP, dual_clip=dual)
    expected = per_token(
        lambda lp, o, a: reference_loss(lp, o, a, dual), mask, logprobs, old, advantages
    )
    torch.testing.assert_close(loss, expected)


def test_policy_gradient_is_zero_exactly_where_a_bound_holds_the_token():
    # Gains above 1.28, losses below 0.8 and losses above the dual clip are held; the rest is not.
    ratios = row(1.5, 1.2, 0.5, 0.5, 0.9, 1.5, 4.0)
    advantages = row(1, 1, 1, -1, -1, -1, -1)
    old = row(*[-2.0] * 7)
    logprobs = (old + ratios.log()).requires_grad_()
    clipped_policy_loss(
        logprobs, old, advantages, torch.ones(1, 7, dtype=torch.bool), **CLIP, dual_clip=3.0
    ).sum().backward()
    # d(-r A)/d logprob = -r A where free.
    torch.testing.assert_close(logprobs.grad, row(0, -1.2, -0.5, 0, 0.9, 1.5, 0))


def test_on_policy_gradient_is_the_plain_policy_gradient():
    logprobs, _, advantages, mask = ragged(0)
    logprobs.requires_grad_()
    loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages, mask, **CLIP, dual_clip=3.0)
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.where(mask, -advantages, 0.0))


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_a_broken_rows_enormous_ratio_gives_no_nan(advantage: float):
    logprobs = torch.tensor([[-0.1]], requires_grad=True)
    loss = clipped_policy_loss(
        logprobs,
        torch.tensor([[-500.0]]),
        torch.tensor([[advantage]]),
        torch.tensor([[True]]),
        **CLIP,
        dual_clip=3.0,
    )
    loss.sum().backward()
    assert loss.isfinite().all()
    torch.testing.assert_close(logprobs.grad, torch.zeros(1, 1))


def test_k3_literal_case():
    # d = ln 2: 2 - ln 2 - 1 = 0.30685; d = 0: 0; d = -50: 50 - 1 + exp(-50).
    got = k3_kl(row(-2, -1, -1), row(-2 + math.log(2), -1, -51), row(1, 1, 1).bool())
    torch.testing.assert_close(got, row(1 - math.log(2), 0, 49))


@pytest.mark.parametrize("seed", range(3))
def test_k3_agrees_with_a_slow_loop_and_is_never_negative(seed: int):
    logprobs, reference, _, mask = ragged(seed)
    got = k3_kl(logprobs, reference, mask)
    expected = per_token(lambda p, q: math.exp(q - p) - (q - p) - 1, mask, logprobs, reference)
    torch.testing.assert_close(got, expected)
    assert (got >= 0).all()


def test_k3_keeps_its_gradient_where_the_reference_dislikes_the_token():
    # d = reference - logprob; dk3/dlogprob = 1 - exp(d): 1 - exp(-40) = 1, and 0 at d = 0.
    logprobs = row(-1, -1).requires_grad_()
    k3_kl(logprobs, row(-41, -1), row(1, 1).bool()).sum().backward()
    torch.testing.assert_close(logprobs.grad, row(1, 0))


def test_k3_of_two_close_policies_survives_fp32():
    # d = 1e-4: d^2 / 2 = 5e-9, which exp(d) - d - 1 loses in fp32 (its last digit is 6e-8).
    got = k3_kl(torch.tensor([[0.0]]), torch.tensor([[1e-4]]), torch.tensor([[True]]))
    torch.testing.assert_close(got, torch.tensor([[5e-9]]), rtol=1e-2, atol=0)


def test_k3_averages_to_the_kl_under_the_policy():
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.5, 0.25, 0.25]).double()
    terms = k3_kl(p.log()[None], q.log()[None], torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close((p * terms).sum(), (p * (p / q).log()).sum())


def test_mismatch_is_the_kl_from_engine_to_trainer_without_gradient():
    engine, trainer = torch.tensor([0.7, 0.3]).double(), torch.tensor([0.6, 0.4]).double()
    logprobs = trainer.log()[None].requires_grad_()
    terms = mismatch_kl(logprobs, engine.log()[None], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close((engine * terms).sum(), (engine * (engine / trainer).log()).sum())
    assert not terms.requires_grad


def test_anneal_falls_from_one_to_zero_and_never_below():
    # (1 + cos(pi t)) / 2 at 0, 1/4, 1/2, 3/4, 1.
    values = [entropy_anneal(t / 4, "cosine") for t in range(5)]
    torch.testing.assert_close(values, [1.0, 0.853553, 0.5, 0.146447, 0.0], rtol=1e-5, atol=1e-6)
    assert min(entropy_anneal(t / 100, "cosine") for t in range(101)) >= 0
    assert {entropy_anneal(t / 4, "none") for t in range(5)} == {1.0}


def test_me_weights_literal_case():
    # 0.001 * 0.5 on easy rows, five times that on hard ones; half hard: (1 + 4 / 2) = 3 times.
    got = me_weights(torch.tensor([0.0, 1.0, 0.5]), coefficient=0.001, hard_factor=5.0, anneal=0.5)
    torch.testing.assert_close(got, torch.tensor([0.0005, 0.0025, 0.0015]))


def test_ea_literal_case():
    # alpha 0.4, kappa 2. Hard, A = 1: + min(0.4, 0.5) and min(0.8, 0.5). Hard, A = -0.2: + 0.1.
    # Hard and all wrong, A = 0: + 0. Easy: A.
    advantages = torch.tensor([1.0, -0.2, 0.0, 1.0])
    entropy = torch.tensor([[1.0, 2.0]] * 4)
    got = ea_advantages(
        advantages, entropy, torch.tensor([1.0, 1.0, 1.0, 0.0]), alpha=0.4, kappa=2.0
    )
    expected = torch.tensor([[1.4, 1.5], [-0.1, -0.1], [0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(got, expected)


def test_ea_never_turns_an_advantage_round():
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(50, generator=generator)
    entropy = 10 * torch.rand(50, 4, generator=generator)
    got = ea_advantages(advantages, entropy, torch.ones(50), alpha=0.4, kappa=1.01)
    assert (got.sign() == advantages[:, None].sign()).all()


def test_importance_weights_literal_case():
    # Ratios 0.5, 1, 3, cap 2; e^800 overflows before the cap and must not matter.
    got = importance_weights(
        row(math.log(0.5), 0, math.log(3), 800.0), row(0, 0, 0, 0), row(1, 1, 1, 1).bool(), cap=2.0
    )
    torch.testing.assert_close(got, row(0.5, 1, 2, 2))


@pytest.mark.parametrize("seed", range(3))
def test_importance_weights_agree_with_a_slow_loop_and_carry_no_gradient(seed: int):
    old, engine, _, mask = ragged(seed)
    got = importance_weights(old.requires_grad_(), engine, mask, cap=1.5)
    assert not got.requires_grad
    expected = per_token(lambda o, e: min(math.exp(o - e), 1.5), mask, old, engine)
    torch.testing.assert_close(torch.where(mask, got, 0.0), expected)
    assert (got[~mask] == 1).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_outside_the_mask_reaches_neither_value_nor_gradient(poison: float):
    logprobs, other, advantages, mask = ragged(4)
    results = []
    for fill in (0.0, poison):
        lp = torch.where(mask, logprobs, fill).requires_grad_()
        out, adv = torch.where(mask, other, -fill), torch.where(mask, advantages, fill)
        values = [
            clipped_policy_loss(lp, out, adv, mask, **CLIP, dual_clip=3.0),
            k3_kl(lp, out, mask),
            mismatch_kl(lp, out, mask),
            importance_weights(lp, out, mask, cap=2.0),
        ]
        gradient = torch.autograd.grad(values[0].sum() + values[1].sum(), lp)[0]
        results.append([*values, gradient])
    clean, poisoned = results
    torch.testing.assert_close(poisoned, clean)
    assert all((value[~mask] == 0).all() for value in (*poisoned[:3], poisoned[4]))
