"""The composed objective: its value, its metrics, what it does not depend on, its gradients."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ceeh.config.settings import Entropy, Objective
from ceeh.modules.objective import ObjectiveTerms, SampledTokens, policy_objective

DENOMINATOR = 37.0
ANNEAL = 0.7
METHODS = ["me", "ea", "uniform", "none"]
SUMS = {
    "tokens", "tokens_hard", "tokens_easy", "policy_loss", "kl", "entropy", "entropy_hard",
    "entropy_easy", "entropy_bonus", "ratio", "abs_log_ratio", "mismatch_kl", "clipped_high", "clipped_low",
    "dual_clipped", "importance_truncated",
}  # fmt: skip
Given = tuple[Tensor, Tensor, SampledTokens]


def settings(method: str, old_logprobs: str = "engine", **changes: Any) -> Objective:
    # Coefficients large enough that no term hides behind another's rounding.
    entropy = Entropy(method=method, coefficient=0.01)
    return replace(
        Objective(entropy=entropy, old_logprobs=old_logprobs, kl_coefficient=0.1), **changes
    )


def rollouts(seed: int, count: int = 48) -> Given:
    """Log-probs, entropy and the rest of `count` tokens in float64; half of them hard."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    logprobs = -normal().abs() - 0.1
    old = logprobs + 0.7 * normal()
    sampled = SampledTokens(
        old_logprobs=old,
        engine_logprobs=old + 0.5 * normal(),
        reference_logprobs=logprobs + 0.3 * normal(),
        advantages=normal(),
        hard=torch.arange(count).remainder(2).double(),
        weights=torch.rand(count, generator=generator, dtype=torch.float64) + 0.5,
    )
    return logprobs, normal().abs(), sampled


def objective(given: Given, chosen: Objective) -> ObjectiveTerms:
    return policy_objective(*given, denominator=DENOMINATOR, settings=chosen, anneal=ANNEAL)


def reference_objective(given: Given, chosen: Objective) -> tuple[float, dict]:
    """One python loop over tokens, every equation written out."""
    sums = dict.fromkeys(SUMS, 0.0)
    loss, method, sampled = 0.0, chosen.entropy.method, given[2]
    columns = [*given[:2], *(getattr(sampled, each.name) for each in fields(sampled))]
    for logprob, entropy, old, engine, reference, advantage, hard, weight in zip(
        *map(Tensor.tolist, columns), strict=True
    ):
        added, coefficient = 0.0, 0.0
        if method == "ea" and hard:
            added = min(0.4 * entropy, abs(advantage) / 2)
        elif method in ("me", "uniform"):
            coefficient = 0.01 * ANNEAL * (5.0 if hard and method == "me" else 1.0)
        ratio, total = math.exp(logprob - old), advantage + added
        gain = min(ratio * total, min(max(ratio, 0.8), 1.28) * total)
        if total < 0 and chosen.dual_clip is not None:
            sums["dual_clipped"] += ratio > chosen.dual_clip
            gain = max(gain, chosen.dual_clip * total)
        importance, trainer = 1.0, logprob
        if chosen.old_logprobs == "trainer":
            importance, trainer = min(math.exp(old - engine), 2.0), old
            sums["importance_truncated"] += math.exp(old - engine) > 2.0
        kl = math.exp(reference - logprob) - (reference - logprob) - 1
        loss += weight * (-importance * gain + 0.1 * kl - coefficient * entropy)
        for name, value in {
            "tokens": 1,
            "tokens_hard": hard,
            "tokens_easy": 1 - hard,
            "policy_loss": -importance * gain,
            "kl": kl,
            "entropy": entropy,
            "entropy_hard": hard * entropy,
            "entropy_easy": (1 - hard) * entropy,
            "entropy_bonus": coefficient * entropy + added,
            "ratio": ratio,
            "abs_log_ratio": abs(math.log(ratio)),
            "mismatch_kl": math.exp(trainer - engine) - (trainer - engine) - 1,
            "clipped_high": advantage > 0 and ratio > 1.28,
            "clipped_low": advantage < 0 and ratio < 0.8,
        }.items():
            sums[name] += value
    return loss / DENOMINATOR, sums


@pytest.mark.parametrize("dual_clip", [2.0, None])
@pytest.mark.parametrize("old_logprobs", ["engine", "trainer"])
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_metrics_agree_with_a_slow_loop(
    method: str, old_logprobs: str, dual_clip: float | None
):
    chosen = settings(method, old_logprobs, dual_clip=dual_clip)
    for seed in range(2):
        given = rollouts(seed)
        terms = objective(given, chosen)
        loss, sums = reference_objective(given, chosen)
        assert terms.loss.item() == pytest.approx(loss, rel=1e-9)
        got = {name: value.item() for name, value in terms.metrics.items()}
        assert got == pytest.approx(sums, rel=1e-9, abs=1e-12)
        assert sums["clipped_high"] * sums["clipped_low"] > 0  # the case is not an easy one


def test_literal_case():
    # One response token: ratio 1, A = 0.5, H = 2, hard, no KL; 4 tokens in the optimizer step.
    # ME: (-0.5 - 5 * 0.01 * 0.7 * 2) / 4 = -0.57 / 4 = -0.1425.
    # EA: A + min(0.4 * 2, 0.5 / 2) = 0.75; -0.75 / 4 = -0.1875. None: -0.5 / 4.
    one = torch.tensor([-1.0])
    sampled = SampledTokens(
        old_logprobs=one,
        engine_logprobs=one,
        reference_logprobs=None,
        advantages=torch.tensor([0.5]),
        hard=torch.ones(1),
        weights=torch.ones(1),
    )
    for method, expected in {"me": -0.1425, "ea": -0.1875, "none": -0.125}.items():
        terms = policy_objective(
            one,
            torch.tensor([2.0]),
            sampled,
            denominator=torch.tensor(4.0),
            settings=settings(method, kl_coefficient=0.0),
            anneal=ANNEAL,
        )
        assert terms.loss.item() == pytest.approx(expected)
        assert "kl" not in terms.metrics


@pytest.mark.parametrize("old_logprobs", ["engine", "trainer"])
@pytest.mark.parametrize("method", METHODS)
def test_order_and_split_of_the_tokens_change_neither_loss_nor_gradient_nor_metrics(
    method: str, old_logprobs: str
):
    chosen, (logprobs, entropy, sampled) = settings(method, old_logprobs), rollouts(3)
    leaves = [logprobs.requires_grad_(), entropy.requires_grad_()]
    whole = objective((logprobs, entropy, sampled), chosen)
    expected = torch.autograd.grad(whole.loss, leaves, allow_unused=True, materialize_grads=True)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    for cuts in ([48], [20, 28], [1, 45, 2], [1] * 48):
        parts = [
            objective((logprobs[part], entropy[part], sampled[part]), chosen)
            for part in order.split(cuts)
        ]
        loss = torch.stack([part.loss for part in parts]).sum()
        got = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(loss, whole.loss)
        torch.testing.assert_close(got, expected)
        for name, value in whole.metrics.items():
            torch.testing.assert_close(sum(part.metrics[name] for part in parts), value)


def with_logits(given: Given, logits: Tensor) -> Given:
    """`given` with log-probs and entropy of `logits` [N V]; token n is n mod V."""
    log_p = logits.log_softmax(-1)
    targets = torch.arange(len(logits)) % logits.shape[1]
    logprobs = log_p.gather(-1, targets[:, None]).squeeze(-1)
    return logprobs, -(log_p.exp() * log_p).sum(-1), given[2]


@pytest.mark.parametrize(("method", "factor"), [("me", 5.0), ("uniform", 1.0)])
def test_the_me_bonus_adds_exactly_the_gradient_of_minus_lambda_times_the_entropy(
    method: str, factor: float
):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(48, 6, generator=generator, dtype=torch.float64).requires_grad_()
    given = with_logits(rollouts(5), logits)
    with_bonus, without = (
        torch.autograd.grad(objective(given, settings(each)).loss, logits, retain_graph=True)[0]
        for each in (method, "none")
    )
    expected = torch.zeros(48, 6, dtype=torch.float64)
    for n, z in enumerate(logits.tolist()):
        log_z = math.log(sum(math.exp(value) for value in z))
        entropy = -sum(math.exp(value - log_z) * (value - log_z) for value in z)
        weight = 0.01 * ANNEAL * (factor if given[2].hard[n] else 1.0)
        for v, value in enumerate(z):
            # dH/dz_v = -p_v (log p_v + H)
            slope = -math.exp(value - log_z) * (value - log_z + entropy)
            expected[n, v] = -given[2].weights[n] * weight * slope / DENOMINATOR
    torch.testing.assert_close(with_bonus - without, expected)
    assert expected.abs().max() > 1e-5


def test_ea_changes_the_policy_gradient_of_hard_tokens_alone():
    given = rollouts(7)
    given[0].requires_grad_()
    by_ea, plain = (
        torch.autograd.grad(objective(given, settings(each)).loss, given[0])[0]
        for each in ("ea", "none")
    )
    changed = by_ea != plain
    assert changed.any()
    assert not changed[given[2].hard == 0].any()


@pytest.mark.parametrize("method", METHODS)
def test_only_the_log_probs_and_under_me_the_entropy_get_a_gradient(method: str):
    given = rollouts(8)
    leaves = {
        "logprobs": given[0],
        "entropy": given[1],
        "engine_logprobs": given[2].engine_logprobs,
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    terms = objective(given, settings(method, "trainer"))
    gradients = torch.autograd.grad(terms.loss, list(leaves.values()), allow_unused=True)
    reached = {
        name
        for name, gradient in zip(leaves, gradients, strict=True)
        if gradient is not None and gradient.any()
    }
    with_entropy = {"logprobs", "entropy"} if method in ("me", "uniform") else {"logprobs"}
    assert reached == with_entropy
    assert not any(value.requires_grad for value in terms.metrics.values())


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_a_reference_goes_with_a_kl_coefficient(coefficient: float):
    logprobs, entropy, sampled = rollouts(0)
    if coefficient:
        sampled = replace(sampled, reference_logprobs=None)
    with pytest.raises(AssertionError, match="a reference iff KL"):
        objective((logprobs, entropy, sampled), settings("none", kl_coefficient=coefficient))
