"""The composed objective: its value, its metrics, what it does not depend on, its gradients."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ceeh.config.settings import Entropy, Objective
from ceeh.modules.aggregation import row_weights
from ceeh.modules.objective import ObjectiveTerms, policy_objective

TOKENS = 37.0
ANNEAL = 0.7
METHODS = ["me", "ea", "uniform", "none"]
SUMS = {
    "tokens", "tokens_hard", "tokens_easy", "policy_loss", "kl", "entropy", "entropy_hard",
    "entropy_easy", "entropy_bonus", "ratio", "mismatch_kl", "clipped_high", "clipped_low",
    "dual_clipped", "importance_truncated",
}  # fmt: skip


def settings(method: str, old_logprobs: str = "engine", **changes: Any) -> Objective:
    # Coefficients large enough that no term hides behind another's rounding.
    entropy = Entropy(method=method, coefficient=0.01)
    return replace(
        Objective(entropy=entropy, old_logprobs=old_logprobs, kl_coefficient=0.1), **changes
    )


def rollouts(seed: int, rows: int = 8, tokens: int = 7) -> dict[str, Tensor]:
    """Arguments of `policy_objective` in float64, rows ragged, a prompt's tokens before them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    logprobs = -normal(rows, tokens).abs() - 0.1
    start = torch.randint(0, 2, (rows, 1), generator=generator)
    length = torch.randint(1, tokens, (rows, 1), generator=generator)
    positions = torch.arange(tokens)
    old = logprobs + 0.7 * normal(rows, tokens)
    return {
        "logprobs": logprobs,
        "entropy": normal(rows, tokens).abs(),
        "old_logprobs": old,
        "engine_logprobs": old + 0.5 * normal(rows, tokens),
        "reference_logprobs": logprobs + 0.3 * normal(rows, tokens),
        "advantages": normal(rows),
        "hard": torch.randint(0, 2, (rows,), generator=generator).double(),
        "mask": (positions >= start) & (positions < start + length),
    }


def objective(given: dict[str, Tensor], chosen: Objective) -> ObjectiveTerms:
    given = dict(given)
    logprobs, entropy = given.pop("logprobs"), given.pop("entropy")
    weights = row_weights(given["mask"], chosen.aggregation)
    step: Any = {"weights": weights, "denominator": TOKENS, "anneal": ANNEAL}
    return policy_objective(logprobs, entropy, **given, **step, settings=chosen)


def reference_objective(given: dict[str, Tensor], chosen: Objective) -> tuple[float, dict]:
    """One python loop over response tokens, every equation written out."""
    sums = dict.fromkeys(SUMS, 0.0)
    loss, method = 0.0, chosen.entropy.method
    for r, t in given["mask"].nonzero().tolist():
        names = ("logprobs", "entropy", "old_logprobs", "engine_logprobs", "reference_logprobs")
        logprob, entropy, old, engine, reference = (given[name][r, t].item() for name in names)
        advantage, hard = given["advantages"][r].item(), given["hard"][r].item()
        bonus, weight = 0.0, 0.0
        if method == "ea" and hard:
            bonus = min(0.4 * entropy, abs(advantage) / 2)
        elif method in ("me", "uniform"):
            weight = 0.01 * ANNEAL * (5.0 if hard and method == "me" else 1.0)
        ratio, total = math.exp(logprob - old), advantage + bonus
        gain = min(ratio * total, min(max(ratio, 0.8), 1.28) * total)
        if total < 0 and chosen.dual_clip is not None:
            sums["dual_clipped"] += ratio > chosen.dual_clip
            gain = max(gain, chosen.dual_clip * total)
        importance, trainer = 1.0, logprob
        if chosen.old_logprobs == "trainer":
            importance, trainer = min(math.exp(old - engine), 2.0), old
            sums["importance_truncated"] += math.exp(old - engine) > 2.0
        kl = math.exp(reference - logprob) - (reference - logprob) - 1
        loss += -importance * gain + 0.1 * kl - weight * entropy
        for name, value in {
            "tokens": 1,
            "tokens_hard": hard,
            "tokens_easy": 1 - hard,
            "policy_loss": -importance * gain,
            "kl": kl,
            "entropy": entropy,
            "entropy_hard": hard * entropy,
            "entropy_easy": (1 - hard) * entropy,
            "entropy_bonus": weight * entropy + bonus,
            "ratio": ratio,
            "mismatch_kl": math.exp(trainer - engine) - (trainer - engine) - 1,
            "clipped_high": advantage > 0 and ratio > 1.28,
            "clipped_low": advantage < 0 and ratio < 0.8,
        }.items():
            sums[name] += value
    return loss / TOKENS, sums


@pytest.mark.parametrize("dual_clip", [2.0, None])
@pytest.mark.parametrize("old_logprobs", ["engine", "trainer"])
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_metrics_agree_with_a_slow_loop(
    method: str, old_logprobs: str, dual_clip: float | None
):
    chosen = settings(method, old_logprobs, dual_clip=dual_clip)
    for seed in range(2):
        given = rollouts(seed, rows=16)
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
    one = torch.tensor([[-1.0]])
    for method, expected in {"me": -0.1425, "ea": -0.1875, "none": -0.125}.items():
        terms = policy_objective(
            one,
            torch.tensor([[2.0]]),
            old_logprobs=one,
            engine_logprobs=one,
            reference_logprobs=None,
            advantages=torch.tensor([0.5]),
            hard=torch.tensor([1.0]),
            weights=torch.tensor([1.0]),
            mask=torch.tensor([[True]]),
            denominator=torch.tensor(4.0),
            settings=settings(method, kl_coefficient=0.0),
            anneal=ANNEAL,
        )
        assert terms.loss.item() == pytest.approx(expected)
        assert "kl" not in terms.metrics


@pytest.mark.parametrize("old_logprobs", ["engine", "trainer"])
@pytest.mark.parametrize("method", METHODS)
def test_any_split_into_micro_batches_gives_the_same_loss_gradient_and_metrics(
    method: str, old_logprobs: str
):
    chosen, given = settings(method, old_logprobs), rollouts(3)
    leaves = [given[name].requires_grad_() for name in ("logprobs", "entropy")]
    whole = objective(given, chosen)
    expected = torch.autograd.grad(whole.loss, leaves, allow_unused=True, materialize_grads=True)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    for cuts in ([8], [4, 4], [1, 5, 2], [1] * 8):
        parts = [
            objective({name: value[rows] for name, value in given.items()}, chosen)
            for rows in order.split(cuts)
        ]
        loss = torch.stack([part.loss for part in parts]).sum()
        got = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(loss, whole.loss)
        torch.testing.assert_close(got, expected)
        for name, value in whole.metrics.items():
            torch.testing.assert_close(sum(part.metrics[name] for part in parts), value)


@pytest.mark.parametrize("old_logprobs", ["engine", "trainer"])
@pytest.mark.parametrize("method", METHODS)
def test_padding_does_not_matter_whatever_stands_there(method: str, old_logprobs: str):
    chosen, given = settings(method, old_logprobs), rollouts(4)
    whole, padded = objective(given, chosen), dict(given)
    wider = torch.nn.functional.pad(given["mask"], (0, 3))
    for name, value in given.items():
        if value.ndim == 2 and name != "mask":
            value = torch.nn.functional.pad(value, (0, 3))
            padded[name] = value.masked_fill(~wider, math.nan)  # the prompt's tokens, too
    padded["mask"] = wider
    leaves = [padded[name].requires_grad_() for name in ("logprobs", "entropy")]
    terms = objective(padded, chosen)
    torch.testing.assert_close(terms.loss, whole.loss)
    torch.testing.assert_close(terms.metrics, whole.metrics)
    for gradient in torch.autograd.grad(terms.loss, leaves, allow_unused=True):
        assert gradient is None or (gradient[~padded["mask"]] == 0).all()


def from_logits(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    log_p = logits.log_softmax(-1)
    logprobs = log_p.gather(-1, targets[..., None]).squeeze(-1)
    return {"logprobs": logprobs, "entropy": -(log_p.exp() * log_p).sum(-1)}


def logits_gradient(method: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    given = rollouts(5)
    logits = torch.randn(8, 7, 6, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(6, (8, 7), generator=generator)
    given |= from_logits(logits, targets)
    terms = objective(given, settings(method))
    return torch.autograd.grad(terms.loss, logits)[0], logits.detach(), given


@pytest.mark.parametrize(("method", "factor"), [("me", 5.0), ("uniform", 1.0)])
def test_the_me_bonus_adds_exactly_the_gradient_of_minus_lambda_times_the_entropy(
    method: str, factor: float
):
    with_bonus, logits, given = logits_gradient(method)
    without, _, _ = logits_gradient("none")
    expected = torch.zeros_like(logits)
    for r, t in given["mask"].nonzero().tolist():
        z = logits[r, t].tolist()
        log_z = math.log(sum(math.exp(value) for value in z))
        entropy = -sum(math.exp(value - log_z) * (value - log_z) for value in z)
        weight = 0.01 * ANNEAL * (factor if given["hard"][r] else 1.0)
        for v, value in enumerate(z):
            # dH/dz_v = -p_v (log p_v + H)
            slope = -math.exp(value - log_z) * (value - log_z + entropy)
            expected[r, t, v] = -weight * slope / TOKENS
    torch.testing.assert_close(with_bonus - without, expected)
    assert expected.abs().max() > 1e-5


def test_a_descent_step_under_me_raises_the_entropy_of_hard_rows_most():
    # Only the bonus acts: advantages and KL are zero.
    given = rollouts(6) | {"hard": torch.tensor([0.0, 1.0] * 4).double()}
    given["advantages"] = torch.zeros(8, dtype=torch.float64)
    given["mask"] = torch.ones_like(given["mask"])
    logits = torch.randn(8, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = logits[:1, :1].expand(8, 7, 6).clone().requires_grad_()
    targets = torch.zeros(8, 7, dtype=torch.long)
    given |= from_logits(logits, targets)
    given["reference_logprobs"] = given["logprobs"].detach()
    objective(given, settings("me")).loss.backward()
    assert logits.grad is not None
    after = from_logits((logits - logits.grad).detach(), targets)["entropy"]
    gained = (after - given["entropy"]).detach()
    assert (gained > 0).all()
    # Five times the step on hard rows, to first order.
    assert (gained[1, 0] / gained[0, 0]).item() == pytest.approx(5.0, rel=0.05)


def test_ea_changes_the_policy_gradient_but_sends_none_through_the_entropy():
    given = rollouts(7)
    leaves = [given[name].requires_grad_() for name in ("logprobs", "entropy")]
    by_logprobs, by_entropy = torch.autograd.grad(
        objective(given, settings("ea")).loss, leaves, allow_unused=True
    )
    assert by_entropy is None or not by_entropy.any()
    plain = torch.autograd.grad(objective(given, settings("none")).loss, leaves[0])[0]
    changed = (by_logprobs != plain).any(1)
    assert changed.any()
    assert not changed[given["hard"] == 0].any()


@pytest.mark.parametrize("method", METHODS)
def test_only_the_log_probs_and_under_me_the_entropy_get_a_gradient(method: str):
    given = rollouts(8)
    names = ("logprobs", "entropy", "engine_logprobs")
    leaves = {name: given[name].requires_grad_() for name in names}
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


def test_the_engines_log_probs_weight_the_loss_only_beside_the_trainers():
    given = rollouts(9)
    shifted = given | {"engine_logprobs": given["engine_logprobs"] - 0.3}
    for old_logprobs, same in {"engine": True, "trainer": False}.items():
        chosen = settings("none", old_logprobs)
        losses = [objective(each, chosen).loss.item() for each in (given, shifted)]
        assert (losses[0] == losses[1]) is same


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_a_reference_goes_with_a_kl_coefficient(coefficient: float):
    given: dict[str, Any] = rollouts(0)
    if coefficient:
        given["reference_logprobs"] = None
    with pytest.raises(AssertionError, match="a reference iff KL"):
        objective(given, settings("none", kl_coefficient=coefficient))


def test_no_hard_prompt_known_yet_is_fine():
    given = rollouts(1) | {"hard": torch.zeros(8, dtype=torch.float64)}
    me, uniform = (objective(given, settings(method)) for method in ("me", "uniform"))
    assert me.loss == uniform.loss
    assert me.metrics["tokens_hard"] == me.metrics["entropy_hard"] == 0
