"""The objective of CEEH: one function per equation, per-token terms, one sum at the end.

Axis: N response tokens, of any rows and in any order. Log-probs and entropies are in nats, at the
sampling temperature. "The paper" is Luo et al., https://arxiv.org/abs/2602.22642.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ceeh.config.settings import Objective
from ceeh.modules.aggregation import reduce_tokens

MAX_LOG_RATIO = 20.0
"""Nats. A larger log-ratio marks a broken row; an infinite ratio turns a clipped gradient of 0 into NaN."""


def clipped_policy_loss(
    logprobs: Float[Tensor, " N"],
    old_logprobs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Float[Tensor, " N"]:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), and at most -dual_clip A where A < 0.

    r = exp(logprobs - old_logprobs). The paper's eq. 2-4; PPO eq. 7,
    https://arxiv.org/abs/1707.06347; clip-higher: DAPO, section 3.1,
    https://arxiv.org/abs/2503.14476; dual clip: Ye et al., https://arxiv.org/abs/1912.09729.
    """
    ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-ratio * advantages, -clipped * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def k3_kl(
    logprobs: Float[Tensor, " N"], reference_logprobs: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """exp(d) - d - 1, an estimate of KL(policy || reference) that is never negative.

    d = reference_logprobs - logprobs, for tokens that the policy sampled. Schulman's k3,
    http://joschu.net/blog/kl-approx.html; GRPO eq. 4, https://arxiv.org/abs/2402.03300.
    """
    # Bounded above only: below, where the reference dislikes the token, d itself pulls back.
    difference = (reference_logprobs - logprobs).clamp(max=MAX_LOG_RATIO)
    return difference.expm1() - difference


def entropy_anneal(progress: float, kind: str) -> float:
    """(1 + cos(pi progress)) / 2 for `cosine`, 1 for `none`; progress = t / T in [0, 1].

    The paper prints cos(pi t / T), which turns negative halfway; its released code has this form.
    """
    return {"cosine": (1 + math.cos(math.pi * progress)) / 2, "none": 1.0}[kind]


def me_weights(
    hard: Float[Tensor, " N"], *, coefficient: float, hard_factor: float, anneal: float
) -> Float[Tensor, " N"]:
    """lambda = coefficient anneal (1 + (hard_factor - 1) hard), for the loss term -lambda H.

    `hard` is 1 for tokens of hard questions, 0 for others; values between interpolate. A
    hard_factor of 1 is a uniform bonus. The paper's eq. 5 and 11, variant ME.
    """
    return coefficient * anneal * (1 + (hard_factor - 1) * hard)


def ea_advantages(
    advantages: Float[Tensor, " N"],
    entropy: Float[Tensor, " N"],
    hard: Float[Tensor, " N"],
    *,
    alpha: float,
    kappa: float,
) -> Float[Tensor, " N"]:
    """A + hard min(alpha H, |A| / kappa), without gradient through H.

    kappa > 1 keeps the sign of A. A group whose responses are all wrong has A = 0 and gets nothing:
    the variant explores only where some response succeeds. The paper's eq. 7 and 12, variant EA;
    Cheng et al., https://arxiv.org/abs/2506.14758.
    """
    return advantages + hard * torch.minimum(alpha * entropy.detach(), advantages.abs() / kappa)


def importance_weights(
    old_logprobs: Float[Tensor, " N"], engine_logprobs: Float[Tensor, " N"], *, cap: float
) -> Float[Tensor, " N"]:
    """min(pi_old / pi_engine, cap), without gradient.

    Corrects for an engine whose probabilities differ slightly from the trainer's. Truncated
    importance sampling: Yao et al., https://fengyao.notion.site/off-policy-rl; Ionides 2008.
    """
    log_ratio = (old_logprobs - engine_logprobs).detach()
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp().clamp(max=cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """What is fixed about N response tokens before the update's forward pass.

    `advantages`, `hard` and `weights` (`row_weights`) are those of each token's row.
    `reference_logprobs` is None exactly when `kl_coefficient` is 0.
    """

    old_logprobs: Float[Tensor, " N"]
    engine_logprobs: Float[Tensor, " N"]
    reference_logprobs: Float[Tensor, " N"] | None
    advantages: Float[Tensor, " N"]
    hard: Float[Tensor, " N"]
    weights: Float[Tensor, " N"]

    def __getitem__(self, tokens: slice | Tensor) -> "SampledTokens":
        reference = self.reference_logprobs
        return SampledTokens(
            old_logprobs=self.old_logprobs[tokens],
            engine_logprobs=self.engine_logprobs[tokens],
            reference_logprobs=None if reference is None else reference[tokens],
            advantages=self.advantages[tokens],
            hard=self.hard[tokens],
            weights=self.weights[tokens],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveTerms:
    """`loss` carries the graph. `metrics` are detached sums over tokens: add them, then divide."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]


def policy_objective(
    logprobs: Float[Tensor, " N"],
    entropy: Float[Tensor, " N"],
    sampled: SampledTokens,
    *,
    denominator: Float[Tensor, ""] | float,
    settings: Objective,
    anneal: float,
) -> ObjectiveTerms:
    """sum_n w_n (rho_n l_n + kl_coefficient k3_n - lambda_n H_n) / D.

    l: `clipped_policy_loss`. rho: `importance_weights` where the old log-probs are the trainer's; 1
    where they are the engine's, because the ratio then corrects for it. lambda: `me_weights` under
    ME and `uniform`, else 0; EA adds to the advantages instead. w: `row_weights`. D: `denominator`,
    the sum of `denominator_shares` over all rows of the optimizer step, on all ranks.
    """
    bonus, advantages = settings.entropy, sampled.advantages
    entropy_weights = torch.zeros_like(sampled.hard)
    if bonus.method == "ea":
        advantages = ea_advantages(
            advantages,
            entropy,
            sampled.hard,
            alpha=bonus.advantage_alpha,
            kappa=bonus.advantage_kappa,
        )
    elif bonus.method in ("me", "uniform"):
        entropy_weights = me_weights(
            sampled.hard,
            coefficient=bonus.coefficient,
            hard_factor=bonus.hard_factor if bonus.method == "me" else 1.0,
            anneal=anneal,
        )
    policy_loss = clipped_policy_loss(
        logprobs,
        sampled.old_logprobs,
        advantages,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
    )
    if settings.old_logprobs == "trainer":
        policy_loss = policy_loss * importance_weights(
            sampled.old_logprobs, sampled.engine_logprobs, cap=settings.importance_cap
        )
    entropy_bonus = entropy_weights * entropy
    terms = policy_loss - entropy_bonus
    measured = {"policy_loss": policy_loss}
    reference = sampled.reference_logprobs
    assert (reference is not None) == (settings.kl_coefficient > 0), "a reference iff KL"
    if reference is not None:
        measured["kl"] = k3_kl(logprobs, reference)
        terms = terms + settings.kl_coefficient * measured["kl"]
    loss = reduce_tokens(terms, sampled.weights, denominator=denominator)
    with torch.no_grad():
        measured["entropy_bonus"] = entropy_bonus + (advantages - sampled.advantages)  # or EA's
        measured |= token_metrics(logprobs, entropy, sampled, settings)
        metrics = {name: value.sum() for name, value in measured.items()}
    return ObjectiveTerms(loss=loss, metrics=metrics)


def token_metrics(
    logprobs: Float[Tensor, " N"],
    entropy: Float[Tensor, " N"],
    sampled: SampledTokens,
    settings: Objective,
) -> dict[str, Float[Tensor, " N"]]:
    """Per-token metrics; the counts are 1 or 0 per token.

    A clipped token is one that a bound of `clipped_policy_loss` leaves without policy gradient.
    `mismatch_kl` is k3 of KL(engine || trainer). With the engine's log-probs as the old ones, the
    current policy stands for the trainer: exact at the first optimizer step of a rollout step, with
    the drift of the updates at later ones.
    """
    log_ratio = logprobs - sampled.old_logprobs
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    gains, loses = sampled.advantages > 0, sampled.advantages < 0
    dual = settings.dual_clip if settings.dual_clip is not None else math.inf
    counts = {
        "clipped_high": gains & (ratio > 1 + settings.clip_high),
        "clipped_low": loses & (ratio < 1 - settings.clip_low),
        "dual_clipped": loses & (ratio > dual),
        "importance_truncated": torch.zeros_like(gains),
    }
    trainer_logprobs = logprobs
    if settings.old_logprobs == "trainer":
        trainer_logprobs, cap = sampled.old_logprobs, settings.importance_cap
        counts["importance_truncated"] = (
            importance_weights(trainer_logprobs, sampled.engine_logprobs, cap=cap) >= cap
        )
    return {name: value.to(entropy) for name, value in counts.items()} | {
        "tokens": torch.ones_like(entropy),
        "tokens_hard": sampled.hard,
        "tokens_easy": 1 - sampled.hard,
        "entropy": entropy,
        "entropy_hard": sampled.hard * entropy,
        "entropy_easy": (1 - sampled.hard) * entropy,
        "ratio": ratio,
        "abs_log_ratio": log_ratio.abs(),
        "mismatch_kl": k3_kl(sampled.engine_logprobs, trainer_logprobs),
    }
