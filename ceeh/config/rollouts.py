"""The `rollouts` settings: how the responses of a step are sampled."""

from dataclasses import dataclass
from typing import Literal

from ceeh.config.rules import POSITIVE, Rule, at_least, setting
from ceeh.errors import ConfigError


@dataclass(frozen=True)
class DynamicSampling:
    max_rounds: int = setting(
        1,
        "Rounds of generation per step; 1 turns it off. All-correct and all-incorrect groups are "
        "dropped and replaced (DAPO, arXiv 2503.14476, eq. 11).",
        at_least(1),
    )
    limit_tokens: int | None = setting(
        None, "Tokens. The filter counts longer responses as incorrect (DLER).", at_least(1)
    )


@dataclass(frozen=True)
class Allocation:
    method: Literal["equal", "knapsack"] = setting(
        "equal",
        "equal: completions_per_prompt for each prompt. knapsack: as many in all, more for prompts that "
        "their last visit's accuracy promises to learn most from (Knapsack RL, arXiv 2509.25849).",
    )
    minimum: int = setting(2, "Fewest completions of a prompt under method=knapsack.", at_least(2))
    maximum: int = setting(48, "Most completions of a prompt under method=knapsack.", at_least(2))


@dataclass(frozen=True)
class Probe:
    questions: int = setting(
        0,
        "Training questions that are set apart: answered at each step, never trained on. 0: none.",
        at_least(0),
    )
    samples: int = setting(2, "Responses per probe question and step.", at_least(1))


@dataclass(frozen=True)
class Rollouts:
    steps: int = setting(100, "Rollout steps of the run. Released script: 100.", POSITIVE)
    prompts_per_step: int = setting(
        32, "Questions per rollout step, over all devices. Paper: 512.", POSITIVE
    )
    completions_per_prompt: int = setting(12, "Group size G. Paper: 12.", at_least(2))
    temperature: float = setting(
        1.0,
        "Temperature at which rollouts are sampled, and at which the trainer computes log-probs and "
        "entropies. Paper: 0.6.",
        POSITIVE,
    )
    top_p: float = setting(
        1.0,
        "Fixed: sampling in training uses the temperature alone.",
        Rule(
            "1.0: top-p renormalizes the engine's log-probs and biases the ratio; sample with "
            "temperature only",
            lambda value: value == 1.0,
        ),
    )
    max_response_tokens: int = setting(
        4096, "Tokens. A longer response is truncated and scores 0. Paper: 20480.", POSITIVE
    )
    seeds: Literal["request", "step"] = setting(
        "request", "One sampling seed per request (reproducible) or per step (faster)."
    )
    balance_ranks: bool = setting(
        True,
        "Several processes: each samples questions of about equal total length, by their last visit, "
        "instead of every w-th. Minibatches keep their questions; one process is not affected.",
    )
    allocation: Allocation = setting(
        Allocation, "Completions of each prompt. As many for all by default."
    )
    dynamic_sampling: DynamicSampling = setting(
        DynamicSampling, "Filter of groups. Off by default."
    )
    probe: Probe = setting(
        Probe,
        "Accuracy on questions that are not trained on, at each step: `probe/accuracy`, and for controllers. "
        "Off by default.",
    )
    max_flat_steps: int = setting(
        10,
        "The run stops after this many rollout steps in a row in which every group's rewards are all equal.",
        at_least(1),
    )
    canary_tolerance: float | None = setting(
        None,
        "Nats. Mean log-prob difference between engine and trainer that stops the run. Null: 0.001 "
        "for 32-true, 0.1 for bf16-mixed.",
        POSITIVE,
    )


def check_allocation(rollouts: Rollouts) -> None:
    """Raises ConfigError for a knapsack without room, or beside dynamic sampling."""
    allocation, size = rollouts.allocation, rollouts.completions_per_prompt
    if allocation.method != "knapsack":
        return
    if not allocation.minimum <= size <= allocation.maximum:
        raise ConfigError(
            f"rollouts.completions_per_prompt ({size}), the mean number, must be from "
            f"rollouts.allocation.minimum ({allocation.minimum}) to rollouts.allocation.maximum "
            f"({allocation.maximum})"
        )
    if rollouts.dynamic_sampling.max_rounds > 1:
        raise ConfigError(
            "rollouts.allocation.method is knapsack and rollouts.dynamic_sampling.max_rounds "
            f"{rollouts.dynamic_sampling.max_rounds}: both choose where completions go; set max_rounds to 1, "
            "or method to equal"
        )
