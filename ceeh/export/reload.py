"""Loads an export as its user will, and compares its log-probs with the trainer's."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ceeh.config.hardware import CANARY_TOLERANCE
from ceeh.errors import ConfigError, RunError
from ceeh.modules.canary import Difference
from ceeh.modules.policy import Policy
from ceeh.modules.restore import load_policy
from ceeh.pretrained.locate import open_trained

TOKENS = 24


def fixed_sequence(vocabulary: int) -> Int[Tensor, "1 T"]:
    """Token ids spread over the vocabulary."""
    return torch.arange(TOKENS)[None] * vocabulary // TOKENS


def trainer_logprobs(policy: Policy, token_ids: Int[Tensor, "1 T"]) -> Float[Tensor, "1 T-1"]:
    """Log-probs of all tokens but the first, by the code that trains."""
    mask = torch.arange(token_ids.shape[1])[None] > 0
    return policy(token_ids, mask)[0][:, 1:]


@torch.no_grad()
def check_reload(
    folder: Path,
    token_ids: Int[Tensor, "1 T"],
    expected: Float[Tensor, "1 T-1"],
    *,
    temperature: float,
    dtype: torch.dtype,
    trust_remote_code: bool,
) -> Difference:
    """The distance between `expected` and the written model's log-probs, by its own forward pass.

    Raises RunError where `folder` does not load or differs by more than rounding to `dtype` explains.
    """
    try:
        source = open_trained(str(folder), trust_remote_code=trust_remote_code)
        written = load_policy(source, temperature=temperature)
    except ConfigError as error:
        raise RunError(
            f"the written model does not load ({error}); nothing was exported"
        ) from error
    logits = written.model(input_ids=token_ids).logits[:, :-1] / temperature
    logprobs = logits.log_softmax(-1).gather(-1, token_ids[:, 1:, None])[..., 0]
    distance = (logprobs - expected).abs()
    difference = Difference(float(distance.mean()), float(distance.max()))
    tolerance = CANARY_TOLERANCE["32-true" if dtype == torch.float32 else "bf16-mixed"]
    if difference.exceeds(tolerance):
        raise RunError(
            f"the written model is not the trained one: their log-probs differ by {difference.mean:.3g} nats "
            f"on {TOKENS} fixed tokens (at most {difference.max:.3g}), more than {tolerance:g}; nothing was "
            f"exported; {'write --dtype float32' if dtype != torch.float32 else 'report this'}"
        )
    return difference
