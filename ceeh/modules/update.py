"""The gradient of one optimizer step: the objective of each micro-batch's tokens, and its backward pass.

Axes: R rows of the rollout batch, T tokens, N response tokens of a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ceeh.config.settings import Objective
from ceeh.data.batch import RolloutBatch
from ceeh.modules.aggregation import row_weights
from ceeh.modules.batching import Microbatch
from ceeh.modules.head import TokenObjective
from ceeh.modules.objective import policy_objective
from ceeh.modules.policy import Policy
from ceeh.modules.timing import Phases
from ceeh.runtime import shutdown


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInputs:
    """What an optimizer step needs beside the rows: `denominator` is over all of them, on all ranks."""

    old_logprobs: Float[Tensor, "R T"]
    advantages: Float[Tensor, " R"]
    hard: Float[Tensor, " R"]
    denominator: Float[Tensor, ""]
    settings: Objective
    anneal: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientResult:
    """Of one optimizer step: its loss, its metrics' sums over tokens, and rows whose numbers are not
    finite."""

    loss: float
    sums: dict[str, float]
    not_finite: Bool[Tensor, " R"]


def accumulate_gradients(
    policy: Policy,
    batch: RolloutBatch,
    micro: Sequence[Microbatch],
    inputs: UpdateInputs,
    *,
    backward: Callable[[Tensor, bool], None],
    phases: Phases,
    patience: float = 0.0,
) -> GradientResult:
    """Adds up the gradient of all micro-batches.

    `backward` takes a micro-batch's loss and whether it is the last one. A requested stop takes effect after
    a micro-batch, once it is `patience` seconds old.
    """
    sums: dict[str, Tensor] = {}
    not_finite = torch.zeros_like(batch.correct)
    for index, cut in enumerate(micro):
        with phases("forward"):
            mask = batch.response_mask[cut.rows, : cut.width]
            token_ids = batch.token_ids[cut.rows, : cut.width]
            reference = (
                policy.reference_logprobs(token_ids, mask)[mask]
                if inputs.settings.kl_coefficient > 0
                else None
            )
            objective = token_objective(batch, cut, mask, reference, inputs, sums, not_finite)
            loss = policy.loss(token_ids, mask, objective)
            add(sums, "loss", loss.detach())
        with phases("backward"):
            backward(loss, index == len(micro) - 1)
        shutdown.check(patience)
    # One transfer for the step: each number on its own would wait for the device.
    values = torch.stack([value.double() for value in sums.values()]).tolist()
    named = dict(zip(sums, values, strict=True))
    return GradientResult(loss=named.pop("loss"), sums=named, not_finite=not_finite)


def token_objective(
    batch: RolloutBatch,
    cut: Microbatch,
    mask: Tensor,
    reference: Float[Tensor, " N"] | None,
    inputs: UpdateInputs,
    sums: dict[str, Tensor],
    not_finite: Bool[Tensor, " R"],
) -> TokenObjective:
    """`policy_objective` for the head's chunks, each token a row of one.

    Its metrics go into `sums`; rows with a log-prob or entropy that is not finite into `not_finite`.
    """
    row = mask.nonzero()[:, 0]
    batch_row = cut.rows.to(row.device)[row]
    per_token = {
        "old_logprobs": inputs.old_logprobs[cut.rows, : cut.width][mask],
        "engine_logprobs": batch.engine_logprobs[cut.rows, : cut.width][mask],
    }
    per_row = {
        "advantages": inputs.advantages[cut.rows][row],
        "hard": inputs.hard[cut.rows][row],
        "weights": row_weights(mask, inputs.settings.aggregation)[row],
    }

    def objective(logprobs: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        terms = policy_objective(
            logprobs[:, None],
            entropy[:, None],
            **{name: values[tokens, None] for name, values in per_token.items()},
            **{name: values[tokens] for name, values in per_row.items()},
            reference_logprobs=None if reference is None else reference[tokens, None],
            mask=torch.ones_like(logprobs, dtype=torch.bool)[:, None],
            denominator=inputs.denominator,
            settings=inputs.settings,
            anneal=inputs.anneal,
        )
        for name, value in terms.metrics.items():
            add(sums, name, value)
        finite = torch.isfinite(logprobs) & torch.isfinite(entropy)
        finite &= torch.isfinite(per_token["engine_logprobs"][tokens])
        not_finite.index_put_((batch_row[tokens],), ~finite, accumulate=True)
        return terms.loss

    return objective


def add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value
