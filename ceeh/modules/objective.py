"""The objective of CEEH: one function per equation, per-token terms, one sum at the end.

Axes: N response tokens, of any rows and in any order; of what is fixed before the update, R rows and T
tokens of a row. Log-probs and entropies are in nats, at the sampling temperature. "The paper" is Luo et
al., https://arxiv.org/abs/2602.22642.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ceeh.config.objective import Objective
from ceeh.modules.aggregation import reduce_tokens

MAX_LOG_RATIO = 20.0
"""Nats. A larger log-ratio marks a broken row; an infinite ratio turns a clipped gradient of 0 into NaN."""


def clipped_policy_loss(
    log_ratio: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Float[Tensor, " N"]:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), and at most -dual_clip A where A < 0.

    r = exp(log_ratio). The paper's eq. 2-4; PPO eq. 7, https://arxiv.org/abs/1707.06347; clip-higher:
    DAPO, section 3.1, https://arxiv.org/abs/2503.14476; dual clip: Ye et al.,
    https://arxiv.org/abs/1912.09729.
    """
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-ratio * advantages, -clipped * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def cispo_loss(
    logprobs: Float[Tensor, " N"],
    log_ratio: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, " N"]:
    """-sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi: no token loses its gradient to the clip.

    r = exp(log_ratio), sg stops its gradient; log pi is `logprobs`. CISPO eq. 4 and 5, MiniMax-M1,
    https://arxiv.org/abs/2506.13585, which sets no lower bound (clip_low 1).
    """
    ratio = log_ratio.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages * logprobs


def sequence_log_ratio(
    mean_log_ratio: Float[Tensor, " N"], logprobs: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """log s_i of a token's response i, with the gradient of the token's own log-prob.

    s_i = (pi(y_i) / pi_old(y_i))^(1 / |y_i|), given as its logarithm `mean_log_ratio`. GSPO-token,
    section 4.3, https://arxiv.org/abs/2507.18071: with one advantage per response, and averaged over
    its tokens (`sequence_mean`), value and gradient are GSPO's.
    """
    return mean_log_ratio + (logprobs - logprobs.detach())


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


def ea_advantages(
    advantages: Float[Tensor, " N"],
    entropy: Float[Tensor, " N"],
    ea_mask: Float[Tensor, " N"],
    *,
    alpha: float,
    kappa: float,
) -> Float[Tensor, " N"]:
    """A + e min(alpha H, |A| / kappa), without gradient through H; e is `ea_mask`, 1 on hard questions.

    kappa > 1 keeps the sign of A. A group whose responses are all wrong has A = 0 and gets nothing:
    the variant explores only where some response succeeds. The paper's eq. 7 and 12, variant EA;
    Cheng et al., https://arxiv.org/abs/2506.14758.
    """
    return advantages + ea_mask * torch.minimum(alpha * entropy.detach(), advantages.abs() / kappa)


def importance_weights(
    old_logprobs: Float[Tensor, "R T"],
    engine_logprobs: Float[Tensor, "R T"],
    response_mask: Bool[Tensor, "R T"],
    *,
    kind: str,
    cap: float,
) -> Float[Tensor, "R T"]:
    """min(w, cap), or for the `_mask` kinds w where w <= cap, else 0; without gradient.

    w = pi_old / pi_engine of a token for `token`, the product over its response for `sequence`. Corrects
    for an engine whose probabilities differ slightly from the trainer's. A token of weight 0 still counts
    in the loss's denominator. Truncated: Yao et al., https://fengyao.notion.site/off-policy-rl; Ionides
    2008. Masked and per sequence: Liu et al., "When Speed Kills Stability", https://richardli.xyz/rl-collapse.
    """
    log_ratio = (old_logprobs - engine_logprobs).detach().where(response_mask, 0.0)
    level, _, masked = kind.partition("_")
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).expand_as(log_ratio)
    weights = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    return weights.where(weights <= cap, 0.0) if masked else weights.clamp(max=cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """What is fixed about N response tokens before the update's forward pass.

    `advantages`, `hard` and `weights` (`row_weights`) are those of each token's row. `entropy_weights` is
    lambda of ME, `ea_mask` the rows of EA, both 0 for tokens left out by `top_fraction`. `importance`:
    `importance_weights`. `reference_logprobs` is None exactly when `kl_coefficient` is 0,
    `mean_log_ratio` (of `sequence_log_ratio`) when `ratio` is `token`.
    """

    old_logprobs: Float[Tensor, " N"]
    engine_logprobs: Float[Tensor, " N"]
    reference_logprobs: Float[Tensor, " N"] | None
    mean_log_ratio: Float[Tensor, " N"] | None
    importance: Float[Tensor, " N"]
    advantages: Float[Tensor, " N"]
    hard: Float[Tensor, " N"]
    entropy_weights: Float[Tensor, " N"]
    ea_mask: Float[Tensor, " N"]
    weights: Float[Tensor, " N"]

    def __getitem__(self, tokens: slice | Tensor) -> "SampledTokens":
        def cut(values: Any) -> Any:
            return None if values is None else values[tokens]

        return SampledTokens(**{each.name: cut(getattr(self, each.name)) for each in fields(self)})


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
) -> ObjectiveTerms:
    """sum_n w_n (rho_n l_n + kl_coefficient k3_n - lambda_n H_n) / D.

    l: `clipped_policy_loss` or `cispo_loss` of the advantages, which EA adds to (`ea_advantages`). rho:
    `importance_weights` where the old log-probs are the trainer's; 1 where they are the engine's, because
    the ratio then corrects for it. lambda: `entropy_weights`. w: `row_weights`. D: `denominator`, the sum
    of `denominator_shares` over all rows of the optimizer step, on all ranks.
    """
    advantages = ea_advantages(
        sampled.advantages,
        entropy,
        sampled.ea_mask,
        alpha=settings.entropy.advantage_alpha,
        kappa=settings.entropy.advantage_kappa,
    )
    log_ratio = logprobs - sampled.old_logprobs
    assert (sampled.mean_log_ratio is not None) == (settings.ratio == "sequence"), (
        "see its docstring"
    )
    if sampled.mean_log_ratio is not None:
        log_ratio = sequence_log_ratio(sampled.mean_log_ratio, logprobs)
    bounds = {"clip_low": settings.clip_low, "clip_high": settings.clip_high}
    if settings.policy_loss == "cispo":
        policy_loss = cispo_loss(logprobs, log_ratio, advantages, **bounds)
    else:
        policy_loss = clipped_policy_loss(
            log_ratio, advantages, **bounds, dual_clip=settings.dual_clip
        )
    policy_loss = sampled.importance * policy_loss
    entropy_bonus = sampled.entropy_weights * entropy
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
        measured |= token_metrics(logprobs, entropy, log_ratio, sampled, settings)
        metrics = {name: value.sum() for name, value in measured.items()}
    return ObjectiveTerms(loss=loss, metrics=metrics)


def token_metrics(
    logprobs: Float[Tensor, " N"],
    entropy: Float[Tensor, " N"],
    log_ratio: Float[Tensor, " N"],
    sampled: SampledTokens,
    settings: Objective,
) -> dict[str, Float[Tensor, " N"]]:
    """Per-token metrics; the counts are 1 or 0 per token.

    A clipped token is one whose ratio (`log_ratio`, perhaps its response's) is beyond a bound that
    matters for the sign of its advantage. `ppo_kl`, k1 of KL(old policy || policy), and `abs_log_ratio`
    are of the token alone. `mismatch_kl` is k3 of KL(engine || trainer). With the engine's log-probs as
    the old ones, the current policy stands for the trainer: exact at the first optimizer step of a
    rollout step, with the drift of the updates at later ones.
    """
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    gains, loses = sampled.advantages > 0, sampled.advantages < 0
    dual = settings.dual_clip if settings.policy_loss == "clip" else None
    counts = {
        "clipped_high": gains & (ratio > 1 + settings.clip_high),
        "clipped_low": loses & (ratio < 1 - settings.clip_low),
        "dual_clipped": loses & (ratio > (math.inf if dual is None else dual)),
        "importance_truncated": torch.zeros_like(gains),
    }
    trainer_logprobs = logprobs
    if settings.old_logprobs == "trainer":
        trainer_logprobs, weight = sampled.old_logprobs, sampled.importance
        if settings.importance != "none":
            counts["importance_truncated"] = (weight >= settings.importance_cap) | (weight == 0)
    return {name: value.to(entropy) for name, value in counts.items()} | {
        "tokens": torch.ones_like(entropy),
        "tokens_hard": sampled.hard,
        "tokens_easy": 1 - sampled.hard,
        "entropy": entropy,
        "entropy_hard": sampled.hard * entropy,
        "entropy_easy": (1 - sampled.hard) * entropy,
        "ratio": ratio,
        "ppo_kl": sampled.old_logprobs - logprobs,
        "abs_log_ratio": (logprobs - sampled.old_logprobs).abs(),
        "mismatch_kl": k3_kl(sampled.engine_logprobs, trainer_logprobs),
    }
