"""Engine and policy must agree on log-probs: on the canary, a short completion, and on each first step."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from ceeh.data.engine.base import RolloutEngine
from ceeh.errors import RunError
from ceeh.modules.policy import Policy

MAX_OVER_MEAN = 20
"""One token may differ by this multiple of the mean's tolerance. bf16 has long tails: on an H100 the
starter's 10,701 tokens differ by 0.011 nats on average and by 0.67 at most."""


class Difference(NamedTuple):
    """Between engine and policy on the canary's tokens, in nats."""

    mean: float
    max: float

    def exceeds(self, tolerance: float) -> bool:
        """Whether the mean is above `tolerance` nats, one token above MAX_OVER_MEAN times that, or NaN."""
        return not (self.mean <= tolerance and self.max <= MAX_OVER_MEAN * tolerance)


@torch.no_grad()
def canary_difference(
    engine: RolloutEngine,
    policy: Policy,
    *,
    temperature: float,
    device: torch.device | str = "cpu",
    forward_context: AbstractContextManager | None = None,
) -> Difference:
    """Samples the canary with the engine and computes its log-probs with `policy`, of that temperature."""
    prompt, completion = engine.canary(temperature=temperature)
    token_ids = torch.tensor([prompt + completion.token_ids], device=device)
    mask = torch.arange(token_ids.shape[1], device=device)[None] >= len(prompt)
    with forward_context or nullcontext():
        logprobs: Tensor = policy(token_ids, mask)[0]
    engine_logprobs = torch.tensor(completion.logprobs, device=device)
    difference = (logprobs[mask].float() - engine_logprobs).abs()
    return Difference(float(difference.mean()), float(difference.max()))


def check_canary(
    difference: Difference,
    policy: Policy,
    *,
    tolerance: float,
    when: str,
    setting: str = "rollouts.canary_tolerance",
) -> None:
    """Raises RunError, with likely causes, for a difference above the tolerance, or NaN.

    `when` starts the message, such as "after the push of policy version 3"; `setting` is the tolerance's.
    """
    if difference.exceeds(tolerance):
        raise RunError(
            f"{when} engine and trainer differ by {difference.mean:.3g} nats on the canary (at most "
            f"{difference.max:.3g}), more than the tolerance of {tolerance:g} "
            f"({MAX_OVER_MEAN * tolerance:g} for one token). "
            f"{likely_causes(policy, setting)}"
        )


def check_first_ratio(difference: float, policy: Policy, *, tolerance: float, old: str) -> None:
    """Raises RunError if |log ratio|, in the mean over tokens, is above the tolerance before any update.

    `old` is `objective.old_logprobs`.
    """
    if difference > tolerance:
        raise RunError(
            "the ratio must be 1 at the first optimizer step of a rollout step, when the policy is the one "
            f"that sampled; its log-probs differ from the {old}'s by {difference:.3g} nats on average, more "
            f"than the tolerance of {tolerance:g}. {likely_causes(policy)}; what the canary's few tokens do "
            "not reach, such as a sliding window or scaled positions"
        )


def likely_causes(policy: Policy, setting: str = "rollouts.canary_tolerance") -> str:
    """What makes engine and trainer differ, the most frequent first, with the facts of this policy."""
    model, config = policy.causal_lm, policy.causal_lm.config
    causes = [
        f"the family, if docs/models.md does not list {type(model).__name__} for the installed vLLM and "
        "transformers",
        "dropout or other randomness in the model's own code",
    ]
    if getattr(config.get_text_config(), "tie_word_embeddings", False):
        causes.append("the head tied to the embedding, which the engine keeps as a copy")
    if policy.lora:
        causes.append("the targets of the adapter (model.lora.target_modules)")
    dtype = str(policy.dtype).removeprefix("torch.")
    causes.append(
        f"an engine dtype below the trainer's (the files hold {dtype}): set engine.init_args.dtype, or for a "
        f"lossy engine raise {setting}"
    )
    return "Likely causes, in this order: " + "; ".join(causes)
