"""The objective: one equation per function, per-token terms out, one reducer at the end.

Axes: R rollout rows, T tokens. Log-probs and entropies are in nats, at the sampling temperature.
"The paper" is Luo et al., https://arxiv.org/abs/2602.22642. What stands outside `mask` never
matters: it is taken out before `exp`, so that not even an infinity there reaches a gradient.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ceeh.config.settings import Objective
from ceeh.modules.aggregation import reduce_tokens

MAX_LOG_RATIO = 20.0
"""Nats. Beyond it a ratio is a broken row; an infinite one turns a clipped 0 gradient to NaN."""


def masked_log_ratio(
    logprobs: Float[Tensor, "R T"], other: Float[Tensor, "R T"], mask: Bool[Tensor, "R T"]
) -> Float[Tensor, "R T"]:
    """logprobs - other; zero where `mask` is False."""
    return torch.where(mask, logprobs - other, 0.0)


def clipped_policy_loss(
    logprobs: Float[Tensor, "R T"],
    old_logprobs: Float[Tensor, "R T"],
    advantages: Float[Tensor, "R T"],
    mask: Bool[Tensor, "R T"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Float[Tensor, "R T"]:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) per token; zero where `mask` is False.

    r = exp(logprobs - old_logprobs). Where A < 0 the loss is at most -dual_clip A. The paper's
    eq. 2-4; PPO eq. 7, https://arxiv.org/abs/1707.06347; clip-higher: DAPO, section 3.1,
    https://arxiv.org/abs/2503.14476; dual clip: Ye et al., https://arxiv.org/abs/1912.09729.
    """
    log_ratio = masked_log_ratio(logprobs, old_logprobs, mask)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-ratio * advantages, -clipped * advantages)
    if dual_clip is not None:
        bounded = torch.minimum(loss, -dual_clip * advantages)
        loss = torch.where(advantages < 0, bounded, loss)
    return torch.where(mask, loss, 0.0)


def k3_kl(
    logprobs: Float[Tensor, "R T"],
    reference_logprobs: Float[Tensor, "R T"],
    mask: Bool[Tensor, "R T"],
) -> Float[Tensor, "R T"]:
    """exp(d) - d - 1, d = reference_logprobs - logprobs: an estimate of KL(policy || reference).

    Per token, never negative, zero where `mask` is False. For tokens that the policy sampled.
    Schulman's k3, http://joschu.net/blog/kl-approx.html; GRPO eq. 4, https://arxiv.org/abs/2402.03300.
    """
    # Bounded above only: below, where the reference dislikes the token, d itself is the pull back.
    difference = masked_log_ratio(reference_logprobs, logprobs, mask).clamp(max=MAX_LOG_RATIO)
    return difference.expm1() - difference


def entropy_anneal(progress: float, kind: str) -> float:
    """(1 + cos(pi progress)) / 2 for `cosine`, 1 for `none`; progress = t / T in [0, 1].

    The paper prints cos(pi t / T), which turns negative half-way; this is its released code's.
    """
    return {"cosine": (1 + math.cos(math.pi * progress)) / 2, "none": 1.0}[kind]


def me_weights(
    hard: Float[Tensor, " R"], *, coefficient: float, hard_factor: float, anneal: float
) -> Float[Tensor, " R"]:
    """lambda = coefficient anneal hard_factor on hard rows, coefficient anneal on the others.

    The loss term is -lambda H per token, with gradient; `hard` between 0 and 1 interpolates, and
    hard_factor = 1 is a uniform bonus. The paper's eq. 5 and 11, variant ME.
    """
    return coefficient * anneal * (1 + (hard_factor - 1) * hard)


def ea_advantages(
    advantages: Float[Tensor, " R"],
    entropy: Float[Tensor, "R T"],
    hard: Float[Tensor, " R"],
    *,
    alpha: float,
    kappa: float,
) -> Float[Tensor, "R T"]:
    """A + min(alpha H, |A| / kappa) on hard rows, A elsewhere; no gradient through H.

    kappa > 1 keeps the sign of A. In a group whose responses are all wrong A = 0, so nothing is
    added: the variant explores where some response succeeds. The paper's eq. 7 and 12, variant EA;
    Cheng et al., https://arxiv.org/abs/2506.14758.
    """
    per_token = advantages[:, None].expand_as(entropy)
    bonus = torch.minimum(alpha * entropy.detach(), per_token.abs() / kappa)
    return per_token + hard[:, None] * bonus


def importance_weights(
    old_logprobs: Float[Tensor, "R T"],
    engine_logprobs: Float[Tensor, "R T"],
    mask: Bool[Tensor, "R T"],
    *,
    cap: float,
) -> Float[Tensor, "R T"]:
    """min(pi_old / pi_engine, cap) per token, without gradient; 1 where `mask` is False.

    Corrects for sampling by an engine whose probabilities are not quite the trainer's. Truncated
    importance sampling: Yao et al., https://fengyao.notion.site/off-policy-rl; Ionides 2008.
    """
    log_ratio = masked_log_ratio(old_logprobs, engine_logprobs, mask).detach()
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp().clamp(max=cap)


def mismatch_kl(
    trainer_logprobs: Float[Tensor, "R T"],
    engine_logprobs: Float[Tensor, "R T"],
    mask: Bool[Tensor, "R T"],
) -> Float[Tensor, "R T"]:
    """k3 estimate of KL(engine || trainer) on the engine's samples, per token, without gradient."""
    return k3_kl(engine_logprobs, trainer_logprobs, mask).detach()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveTerms:
    """`loss` carries the graph. `metrics` are detached sums over tokens: add them, then divide."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]


def policy_objective(
    logprobs: Float[Tensor, "R T"],
    entropy: Float[Tensor, "R T"],
    *,
    old_logprobs: Float[Tensor, "R T"],
    engine_logprobs: Float[Tensor, "R T"],
    reference_logprobs: Float[Tensor, "R T"] | None,
    advantages: Float[Tensor, " R"],
    hard: Float[Tensor, " R"],
    weights: Float[Tensor, " R"],
    mask: Bool[Tensor, "R T"],
    denominator: Float[Tensor, ""] | float,
    settings: Objective,
    anneal: float,
) -> ObjectiveTerms:
    """w * clipped loss + kl_coefficient * k3 - lambda H per token, made a loss by `reduce_tokens`.

    `weights` are the rows' `row_weights`, `denominator` is the sum of `denominator_shares` over all
    rows of the optimizer step, on all ranks. Terms are per token: cut rows into rows of single tokens,
    and nothing changes but the order of summation.
    ME and `uniform` set lambda, EA enters the advantages. w is the truncated importance weight
    where `old_logprobs` are the trainer's; where they are the engine's the ratio corrects, w = 1.
    `reference_logprobs` are given exactly when kl_coefficient > 0.

    Metrics, each a sum over response tokens: `tokens`, `tokens_hard`, `tokens_easy` (counts);
    `policy_loss`, `kl` (when there is a reference), `entropy`, `entropy_hard`, `entropy_easy`,
    `entropy_bonus` (lambda H, or EA's addition to A), `ratio`, `mismatch_kl`; and counts of tokens
    `clipped_high`, `clipped_low`, `dual_clipped`, `importance_truncated`. With the engine's
    log-probs as the old ones the present policy stands for the trainer in `mismatch_kl`: exact at
    the first optimizer step of a rollout step, drift included at later ones.
    """
    assert (reference_logprobs is not None) == (settings.kl_coefficient > 0), "a reference iff KL"
    bonus = settings.entropy
    entropy = torch.where(mask, entropy, 0.0)
    per_token = advantages[:, None].expand_as(entropy)
    bonus_weights = torch.zeros_like(hard)
    if bonus.method == "ea":
        per_token = ea_advantages(
            advantages, entropy, hard, alpha=bonus.advantage_alpha, kappa=bonus.advantage_kappa
        )
    elif bonus.method in ("me", "uniform"):
        factor = bonus.hard_factor if bonus.method == "me" else 1.0
        bonus_weights = me_weights(
            hard, coefficient=bonus.coefficient, hard_factor=factor, anneal=anneal
        )
    policy_loss = clipped_policy_loss(
        logprobs,
        old_logprobs,
        per_token,
        mask,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
    )
    trainer_logprobs = logprobs
    truncated = torch.zeros_like(mask)
    if settings.old_logprobs == "trainer":
        trainer_logprobs = old_logprobs
        importance = importance_weights(
            old_logprobs, engine_logprobs, mask, cap=settings.importance_cap
        )
        policy_loss = importance * policy_loss
        truncated = importance >= settings.importance_cap
    terms = policy_loss - bonus_weights[:, None] * entropy
    measured = {"policy_loss": policy_loss}
    if reference_logprobs is not None:
        measured["kl"] = k3_kl(logprobs, reference_logprobs, mask)
        terms = terms + settings.kl_coefficient * measured["kl"]
    loss = reduce_tokens(terms, mask, weights, denominator=denominator)
    with torch.no_grad():
        ratio = masked_log_ratio(logprobs, old_logprobs, mask).clamp(max=MAX_LOG_RATIO).exp()
        measured |= clipping(ratio, advantages, settings)
        on_hard = hard[:, None].expand_as(entropy)
        added = per_token - advantages[:, None]  # EA's; zero for the others
        measured |= {
            "tokens": torch.ones_like(entropy),
            "tokens_hard": on_hard,
            "tokens_easy": 1 - on_hard,
            "entropy": entropy,
            "entropy_hard": on_hard * entropy,
            "entropy_easy": (1 - on_hard) * entropy,
            "entropy_bonus": bonus_weights[:, None] * entropy + added,
            "ratio": ratio,
            "mismatch_kl": mismatch_kl(trainer_logprobs, engine_logprobs, mask),
            "importance_truncated": truncated.to(entropy),
        }
        metrics = {name: torch.where(mask, value, 0.0).sum() for name, value in measured.items()}
    return ObjectiveTerms(loss=loss, metrics=metrics)


def clipping(
    ratio: Float[Tensor, "R T"], advantages: Float[Tensor, " R"], settings: Objective
) -> dict[str, Float[Tensor, "R T"]]:
    """1 where a bound of `clipped_policy_loss` holds the token: there it has no policy gradient."""
    gains, loses = advantages[:, None] > 0, advantages[:, None] < 0
    dual = settings.dual_clip if settings.dual_clip is not None else math.inf
    return {
        "clipped_high": (gains & (ratio > 1 + settings.clip_high)).to(ratio),
        "clipped_low": (loses & (ratio < 1 - settings.clip_low)).to(ratio),
        "dual_clipped": (loses & (ratio > dual)).to(ratio),
    }
