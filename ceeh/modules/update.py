"""The gradient of one optimizer step: each micro-batch's objective and its backward pass.

Axes: R rows of the rollout batch, T tokens of a row, N response tokens of a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ceeh.config.settings import Objective
from ceeh.data.batch import RolloutBatch
from ceeh.errors import RunError, first_line
from ceeh.modules.aggregation import row_weights
from ceeh.modules.batching import Located, Microbatch, located
from ceeh.modules.metrics import add_to
from ceeh.modules.objective import SampledTokens, policy_objective
from ceeh.modules.policy import Policy
from ceeh.modules.timing import StepClock
from ceeh.runtime import shutdown


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInputs:
    """What all optimizer steps of a rollout step share; `hard` is 1 for rows of hard prompts, else 0."""

    old_logprobs: Float[Tensor, "R T"]
    advantages: Float[Tensor, " R"]
    hard: Float[Tensor, " R"]
    settings: Objective
    anneal: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientResult:
    """One optimizer step's loss, its metrics as sums over tokens, and the rows with NaN or infinity.

    entropy: nats, summed over a row's response tokens; 0 for rows of other steps.
    """

    loss: float
    sums: dict[str, float]
    entropy: Float[Tensor, " R"]
    not_finite: Bool[Tensor, " R"]


def accumulate_gradients(
    policy: Policy,
    batch: RolloutBatch,
    micro: Sequence[Microbatch],
    inputs: UpdateInputs,
    *,
    denominator: Float[Tensor, ""],
    backward: Callable[[Tensor, bool], None],
    clock: StepClock,
    patience: float = 0.0,
) -> GradientResult:
    """Adds up the gradients of all micro-batches; `denominator` covers their rows on all ranks.

    `backward` receives a micro-batch's loss and whether it is the last one. A requested stop takes effect
    after a micro-batch, once it is `patience` seconds old. Raises RunError when GPU memory runs out.
    """
    sums: dict[str, Tensor] = {}
    not_finite = torch.zeros_like(batch.correct)
    row_entropy = torch.zeros_like(batch.scores)

    def loss_of(cut: Located) -> Tensor:
        sampled, rows = gather_tokens(policy, batch, cut, inputs)

        def objective(logprobs: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
            terms = policy_objective(
                logprobs,
                entropy,
                sampled[tokens],
                denominator=denominator,
                settings=inputs.settings,
                anneal=inputs.anneal,
            )
            add_to(sums, terms.metrics)
            row_entropy.index_add_(0, rows[tokens], entropy.detach().float())
            finite = torch.isfinite(logprobs) & torch.isfinite(entropy)
            finite &= torch.isfinite(sampled.engine_logprobs[tokens])
            not_finite.index_put_((rows[tokens],), ~finite, accumulate=True)
            return terms.loss

        return policy.loss(*tokens_of(batch, cut), objective, places=cut.places)

    for index, cut in enumerate(located(micro, batch)):
        try:
            with clock.phase("forward"):
                loss = loss_of(cut)
                add_to(sums, {"loss": loss.detach()})
            with clock.phase("backward"):
                backward(loss, index == len(micro) - 1)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"GPU memory ran out in a micro-batch of {len(cut.rows)} rows of {cut.width} tokens "
                f"({first_line(error)}). Lower optimizer.tokens_per_microbatch or "
                "model.head_chunk_tokens, or set model.gradient_checkpointing=true or "
                "engine.init_args.sleep=true; then resume with ckpt_path=last"
            ) from error
        shutdown.check(patience)
    # One transfer for the step: each number on its own would wait for the device.
    values = torch.stack([value.double() for value in sums.values()]).tolist()
    named = dict(zip(sums, values, strict=True))
    return GradientResult(
        loss=named.pop("loss"), sums=named, entropy=row_entropy, not_finite=not_finite
    )


def tokens_of(batch: RolloutBatch, cut: Located) -> tuple[Tensor, Tensor]:
    """Token ids and response mask of a micro-batch."""
    token_ids, mask = batch.token_ids[:, : cut.width], batch.response_mask[:, : cut.width]
    return token_ids.index_select(0, cut.rows), mask.index_select(0, cut.rows)


def gather_tokens(
    policy: Policy, batch: RolloutBatch, cut: Located, inputs: UpdateInputs
) -> tuple[SampledTokens, Tensor]:
    """The response tokens [N] of a micro-batch in the head's order, and each one's row of the batch.

    Prompts and padding end here: no equation sees them.
    """
    settings, reference = inputs.settings, None
    if settings.kl_coefficient > 0:
        logprobs = policy.reference_logprobs(*tokens_of(batch, cut), places=cut.places)
        reference = logprobs.flatten().index_select(0, cut.places)
    row = cut.batch_places // batch.token_ids.shape[1]
    tokens = SampledTokens(
        old_logprobs=inputs.old_logprobs.flatten().index_select(0, cut.batch_places),
        engine_logprobs=batch.engine_logprobs.flatten().index_select(0, cut.batch_places),
        reference_logprobs=reference,
        advantages=inputs.advantages.index_select(0, row),
        hard=inputs.hard.index_select(0, row),
        weights=row_weights(batch.lengths, settings.aggregation).index_select(0, row),
    )
    return tokens, row
