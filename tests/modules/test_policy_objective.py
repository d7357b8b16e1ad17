"""The composed objective: its value, its metrics, what it does not depend on, its gradients."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ceeh.config.objective import Entropy, Objective
from ceeh.modules.entropy import ea_mask
from ceeh.modules.objective import ObjectiveTerms, SampledTokens, policy_objective

DENOMINATOR = 37.0
LAMBDA = 0.007
METHODS = ["me", "ea", "none"]
SUMS = {
    "tokens", "tokens_hard", "tokens_easy", "policy_loss", "kl", "entropy", "entropy_hard",
    "entropy_easy", "entropy_bonus", "ratio", "ppo_kl", "abs_log_ratio", "mismatch_kl", "clipped_high",
    "clipped_low", "dual_clipped", "importance_truncated",
}  # fmt: skip
Given = tuple[Tensor, Tensor, SampledTokens]


def settings(method: str, old_logprobs: str = "engine", **changes: Any) -> Objective:
    return replace(
        Objective(entropy=Entropy(method=method), old_logprobs=old_logprobs, kl_coefficient=0.1),
        **changes,
    )


def rollouts(seed: int, chosen: Objective | None = None, count: int = 48) -> Given:
    """Log-probs, entropy and the rest of `count` tokens in float64; half of them hard."""
    chosen = chosen or settings("me")
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    logprobs = -normal().abs() - 0.1
    old = logprobs + 0.7 * normal()
    hard, importance = torch.arange(count).remainder(2).double(), torch.ones_like(old)
    if chosen.old_logprobs == "trainer":
        importance = normal().exp().clamp(max=chosen.importance_cap)
    sampled = SampledTokens(
        old_logprobs=old,
        engine_logprobs=old + 0.5 * normal(),
        reference_logprobs=logprobs + 0.3 * normal(),
        mean_log_ratio=0.3 * normal() if chosen.ratio == "sequence" else None,
        importance=importance,
        advantages=normal(),
        hard=hard,
        # Large enough that no term hides behind another's rounding.
        entropy_weights=LAMBDA * (1 + 4 * hard) * (chosen.entropy.method == "me"),
        ea_mask=ea_mask(hard, chosen.entropy.method),
        weights=torch.rand(count, generator=generator, dtype=torch.float64) + 0.5,
    )
    return logprobs, normal().abs(), sampled


def objective(given: Given, chosen: Objective) -> ObjectiveTerms:
    return policy_objective(*given, denominator=DENOMINATOR, settings=chosen)


def reference_objective(given: Given, chosen: Objective) -> tuple[float, dict]:
    """One python loop over tokens, every equation written out."""
    sums = dict.fromkeys(SUMS, 0.0)
    loss, method, sampled = 0.0, chosen.entropy.method, given[2]
    for index, (logprob, entropy) in enumerate(
        zip(given[0].tolist(), given[1].tolist(), strict=True)
    ):
        token: dict[str, Any] = {
            each.name: None
            if (values := getattr(sampled, each.name)) is None
            else values[index].item()
            for each in fields(sampled)
        }
        old, engine, advantage = (
            token[name] for name in ("old_logprobs", "engine_logprobs", "advantages")
        )
        hard, reference = token["hard"], token["reference_logprobs"]
        added = min(0.4 * entropy, abs(advantage) / 2) if method == "ea" and hard else 0.0
        coefficient = LAMBDA * (5 if hard else 1) if method == "me" else 0.0
        ratio, total = math.exp(logprob - old), advantage + added
        if chosen.ratio == "sequence":
            ratio = math.exp(token["mean_log_ratio"])
        clipped = min(max(ratio, 0.8), 1.28)
        gain, dual = min(ratio * total, clipped * total), chosen.dual_clip
        if chosen.policy_loss == "cispo":
            gain, dual = clipped * total * logprob, None
        sums["dual_clipped"] += dual is not None and advantage < 0 and ratio > dual
        if total < 0 and dual is not None:
            gain = max(gain, dual * total)
        importance, trainer = token["importance"], logprob
        if chosen.old_logprobs == "trainer":
            trainer = old
            sums["importance_truncated"] += importance >= 2.0
        kl = math.exp(reference - logprob) - (reference - logprob) - 1
        loss += token["weights"] * (-importance * gain + 0.1 * kl - coefficient * entropy)
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
            "ppo_kl": old - logprob,
            "abs_log_ratio": abs(logprob - old),
            "mismatch_kl": math.exp(trainer - engine) - (trainer - engine) - 1,
            "clipped_high": advantage > 0 and ratio > 1.28,
            "clipped_low": advantage < 0 and ratio < 0.8,
        }.items():
            sums[name] += value
    return loss / DENOMINATOR, sums


@pytest.mark.parametrize(
    "changes",
    [
        {"dual_clip": 2.0},
        {"dual_clip": None},
        {"policy_loss": "cispo"},
        {"ratio": "sequence"},
        {"ratio": "sequence", "policy_loss": "cispo"},
    ],
    ids=str,
)
@pytest.mark.parametrize("old_logprobs", ["engine", "trainer"])
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_metrics_agree_with_a_slow_loop(
    method: str, old_logprobs: str, changes: dict[str, Any]
):
    chosen = settings(method, old_logprobs, **changes)
    for seed in range(2):
        given = rollouts(seed, chosen)
        terms = objective(given, chosen)
        loss, sums = reference_objective(given, chosen)
        assert terms.loss.item() == pytest.approx(loss, rel=1e-9)
        got = {name: value.item() for name, value in terms.metrics.items()}
        assert got == pytest.approx(sums, rel=1e-9, abs=1e-12)
        assert sums["clipped_high"] * sums["clipped_low"] > 0  # the case is not an easy one


def test_literal_case():
    # One response token: ratio 1, A = 0.5, H = 2, hard, no KL; 4 tokens in the optimizer step.
    # ME, lambda 0.035: (-0.5 - 0.035 * 2) / 4 = -0.57 / 4 = -0.1425.
    # EA: A + min(0.4 * 2, 0.5 / 2) = 0.75; -0.75 / 4 = -0.1875. None: -0.5 / 4.
    one = torch.tensor([-1.0])
    for method, expected in {"me": -0.1425, "ea": -0.1875, "none": -0.125}.items():
        sampled = SampledTokens(
            old_logprobs=one,
            engine_logprobs=one,
            reference_logprobs=None,
            mean_log_ratio=None,
            importance=torch.ones(1),
            advantages=torch.tensor([0.5]),
            hard=torch.ones(1),
            entropy_weights=torch.tensor([0.035 if method == "me" else 0.0]),
            ea_mask=ea_mask(torch.ones(1), method),
            weights=torch.ones(1),
        )
        terms = policy_objective(
            one,
            torch.tensor([2.0]),
            sampled,
            denominator=torch.tensor(4.0),
            settings=settings(method, kl_coefficient=0.0),
        )
        assert terms.loss.item() == pytest.approx(expected)
        assert "kl" not in terms.metrics


@pytest.mark.parametrize("old_logprobs", ["engine", "trainer"])
@pytest.mark.parametrize("method", METHODS)
def test_order_and_split_of_the_tokens_change_neither_loss_nor_gradient_nor_metrics(
    method: str, old_logprobs: str
):
    chosen = settings(method, old_logprobs)
    logprobs, entropy, sampled = rollouts(3, chosen)
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


def test_the_me_bonus_adds_exactly_the_gradient_of_minus_lambda_times_the_entropy():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(48, 6, generator=generator, dtype=torch.float64).requires_grad_()
    chosen = settings("me")
    given = with_logits(rollouts(5, chosen), logits)
    plain = *given[:2], replace(given[2], entropy_weights=torch.zeros(48).double())
    with_bonus, without = (
        torch.autograd.grad(objective(each, chosen).loss, logits, retain_graph=True)[0]
        for each in (given, plain)
    )
    expected = torch.zeros(48, 6, dtype=torch.float64)
    for n, z in enumerate(logits.tolist()):
        log_z = math.log(sum(math.exp(value) for value in z))
        entropy = -sum(math.exp(value - log_z) * (value - log_z) for value in z)
        weight = LAMBDA * (5.0 if given[2].hard[n] else 1.0)
        for v, value in enumerate(z):
            # dH/dz_v = -p_v (log p_v + H)
            slope = -math.exp(value - log_z) * (value - log_z + entropy)
            expected[n, v] = -given[2].weights[n] * weight * slope / DENOMINATOR
    torch.testing.assert_close(with_bonus - without, expected)
    assert expected.abs().max() > 1e-5


def test_ea_changes_the_policy_gradient_of_hard_tokens_alone():
    by_ea, plain = (rollouts(7, settings(each)) for each in ("ea", "none"))
    gradients = []
    for given in (by_ea, plain):
        given[0].requires_grad_()
        loss = objective(given, settings("ea")).loss
        gradients += torch.autograd.grad(loss, given[0])
    changed = gradients[0] != gradients[1]
    assert changed.any()
    assert not changed[by_ea[2].hard == 0].any()


@pytest.mark.parametrize("method", METHODS)
def test_only_the_log_probs_and_under_me_the_entropy_get_a_gradient(method: str):
    given = rollouts(8, settings(method, "trainer"))
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
    with_entropy = {"logprobs", "entropy"} if method == "me" else {"logprobs"}
    assert reached == with_entropy
    assert not any(value.requires_grad for value in terms.metrics.values())


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_a_reference_goes_with_a_kl_coefficient(coefficient: float):
    logprobs, entropy, sampled = rollouts(0)
    if coefficient:
        sampled = replace(sampled, reference_logprobs=None)
    with pytest.raises(AssertionError, match="a reference iff KL"):
        objective((logprobs, entropy, sampled), settings("none", kl_coefficient=coefficient))
