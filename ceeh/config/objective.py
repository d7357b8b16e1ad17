"""The `objective` settings: reward, advantage, loss and entropy bonus."""

from dataclasses import dataclass
from typing import Literal

from ceeh.config.component import Component
from ceeh.config.rules import POSITIVE, UNIT_ABOVE_0, above, at_least, setting
from ceeh.errors import ConfigError

READ_HARD = ("me", "hard_only", "uniform_mean", "ea")
"""The values of `objective.entropy.method` that need `objective.hard_signal`."""


@dataclass(frozen=True)
class Entropy:
    method: Literal["me", "hard_only", "uniform", "uniform_mean", "ea", "ea_all", "none"] = setting(
        "me",
        "me: bonus in the loss, larger on hard questions (eq. 5, 11). hard_only: me without the bonus on "
        "others. uniform: lambda0 on all. uniform_mean: me's mean over the step's tokens on all. ea: bonus "
        "in the advantage on hard questions (eq. 7, 12). ea_all: ea on all.",
    )
    coefficient: float = setting(
        0.001, "lambda0, weight of the bonus in the loss (eq. 11). Paper: 0.001.", at_least(0)
    )
    coefficient_signal: str | None = setting(
        None, "Signal that lambda0 is read from instead, e.g. of ceeh.callbacks.controllers."
    )
    hard_factor: float = setting(
        5.0,
        "Factor on lambda0 for hard questions in me, hard_only and uniform_mean (eq. 11). Paper: 5.",
        at_least(0),
    )
    anneal: Literal["cosine", "linear", "none"] = setting(
        "cosine",
        "Factor on lambda0 at p = t / (anneal_end T), step t of T: (1 + cos(pi p)) / 2 (eq. 11), 1 - p, or "
        "1; 0 from p = 1 on.",
    )
    anneal_end: float = setting(
        1.0, "Fraction of the run after which the bonus in the loss is 0.", UNIT_ABOVE_0
    )
    top_fraction: float = setting(
        1.0,
        "Fraction of each response's tokens, those of highest entropy when sampled, that get the bonus. "
        "Below 1 it takes a forward pass before the update (arXiv 2506.01939).",
        UNIT_ABOVE_0,
    )
    advantage_alpha: float = setting(
        0.4, "alpha, weight of the entropy in the advantage, ea only (eq. 12).", at_least(0)
    )
    advantage_kappa: float = setting(
        2.0, "kappa; the bonus of ea is at most abs(A) / kappa (eq. 12).", above(1)
    )


@dataclass(frozen=True)
class Objective:
    shaping: Component = setting(
        Component(
            "ceeh.modules.shaping.OptimalLengthPenalty", {"beta": 0.1, "gate": True, "floor": 0.9}
        ),
        "Length reward, a class of ceeh.modules.shaping. The default is eq. 13, 14: correct responses "
        "lose beta (L - L_x) / L_x, at most floor; the gate needs accuracy not below its history.",
    )
    advantage: Literal[
        "group_mean", "group_std", "leave_one_out", "batch_std", "token_whitened"
    ] = setting(
        "group_mean",
        "Baseline and scale of rewards. Paper: group_mean, no division by the std.",
    )
    advantage_boost: float = setting(
        0.0,
        "Added to the advantages of correct responses whose reward is positive (DLER's script: 0.1).",
        at_least(0),
    )
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = setting(
        "token_mean", "Mean over tokens (DAPO), over responses (GRPO), or constant (Dr. GRPO)."
    )
    entropy: Entropy = setting(Entropy, "Entropy bonus.")
    hard_signal: str = setting("hard", "Signal that marks hard questions.")
    policy_loss: Literal["clip", "cispo"] = setting(
        "clip",
        "clip: PPO's clipped ratio (eq. 2-4). cispo: the clipped ratio, without gradient, weights "
        "log-probs (arXiv 2506.13585).",
    )
    ratio: Literal["token", "sequence"] = setting(
        "token",
        "Ratio of each token, or for all tokens of a response their geometric mean (GSPO, arXiv "
        "2507.18071), which takes another forward pass.",
    )
    clip_low: float = setting(
        0.2,
        "Ratios are clipped below at 1 - clip_low (eq. 2-4); 1: no bound. verl: 0.2.",
        UNIT_ABOVE_0,
    )
    clip_high: float = setting(
        0.28, "Ratios are clipped above at 1 + clip_high (eq. 2-4). Paper: 0.28.", POSITIVE
    )
    dual_clip: float | None = setting(
        3.0,
        "Where A < 0 the loss is at most dual_clip abs(A); policy_loss clip only. Null turns it off. "
        "verl: 3.",
        above(1),
    )
    kl_coefficient: float = setting(
        0.001, "Weight of the k3 KL to the starting policy (eq. 2-4). Paper: 0.001.", at_least(0)
    )
    old_logprobs: Literal["engine", "trainer"] = setting(
        "engine",
        "Log-probs in the ratio's denominator: the engine's, or recomputed by the trainer with an "
        "importance correction.",
    )
    importance: Literal["token", "sequence", "token_mask", "sequence_mask", "none"] = setting(
        "token",
        "Importance correction under old_logprobs=trainer: a token's policy loss times pi_old / pi_engine "
        "of the token (token) or of its response (sequence), at most importance_cap. token_mask and "
        "sequence_mask: 0 above the cap instead. none: no correction.",
    )
    importance_cap: float = setting(
        2.0, "Largest weight of the importance correction; see importance.", at_least(1)
    )


def check_objective(objective: Objective) -> None:
    """Raises ConfigError for settings of the loss that contradict each other."""
    dual_clip = objective.dual_clip if objective.policy_loss == "clip" else None
    if dual_clip is not None and dual_clip <= 1 + objective.clip_high:
        raise ConfigError(
            f"objective.dual_clip must be above 1 + objective.clip_high = {1 + objective.clip_high}, "
            f"got {objective.dual_clip}"
        )
    if objective.importance != "token" and objective.old_logprobs == "engine":
        raise ConfigError(
            f"objective.importance is {objective.importance}, but with objective.old_logprobs=engine the "
            "ratio itself corrects for the engine; set objective.old_logprobs=trainer"
        )
