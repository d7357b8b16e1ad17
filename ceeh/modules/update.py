"""The gradient of one optimizer step: each micro-batch's objective and its backward pass.

Axes: R rows of the rollout batch, T tokens of a row, N response tokens of a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ceeh.config.objective import Objective
from ceeh.data.batch import RolloutBatch
from ceeh.errors import RunError, first_line
from ceeh.modules.aggregation import row_weights
from ceeh.modules.batching import Microbatch, MicrobatchIndex, index_microbatches, model_inputs
from ceeh.modules.entropy import ea_mask, entropy_anneal, entropy_weights, top_entropy_tokens
from ceeh.modules.metrics import add_to
from ceeh.modules.objective import SampledTokens, importance_weights, policy_objective
from ceeh.modules.policy import Policy
from ceeh.modules.timing import StepClock
from ceeh.runtime import shutdown


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInputs:
    """What all optimizer steps of a rollout step share; see `SampledTokens`.

    `hard` is 1 for rows of hard prompts, else 0. `importance` is None where all weights are 1, `bonus_mask`
    where all tokens may get the entropy bonus.
    """

    old_logprobs: Float[Tensor, "R T"]
    advantages: Float[Tensor, " R"]
    hard: Float[Tensor, " R"]
    entropy_weights: Float[Tensor, " R"]
    ea_mask: Float[Tensor, " R"]
    settings: Objective
    importance: Float[Tensor, "R T"] | None = None
    bonus_mask: Bool[Tensor, "R T"] | None = None


def update_inputs(
    batch: RolloutBatch,
    advantages: Float[Tensor, " R"],
    hard: Float[Tensor, " R"],
    *,
    settings: Objective,
    progress: float,
    forward: Callable[[], tuple[Tensor, Tensor]],
    total: Callable[[Tensor], Tensor],
) -> UpdateInputs:
    """From the batch, its signals and `settings`; `progress` is the share of the run already done.

    `forward` gives log-probs and entropy [R T] of the policy that sampled the batch; it is called only where
    a setting needs them. `total` sums over ranks.
    """
    bonus, old, importance, bonus_mask = settings.entropy, batch.engine_logprobs, None, None
    recomputed = settings.old_logprobs == "trainer"
    chosen = bonus.top_fraction < 1 and bonus.method != "none"
    if recomputed or chosen:
        logprobs, entropy = forward()
        if chosen:
            bonus_mask = top_entropy_tokens(entropy, batch.response_mask, bonus.top_fraction)
        if recomputed:
            old = logprobs
            if settings.importance != "none":
                importance = importance_weights(
                    old,
                    batch.engine_logprobs,
                    batch.response_mask,
                    kind=settings.importance,
                    cap=settings.importance_cap,
                )
    coefficient: Tensor | float = bonus.coefficient
    if bonus.coefficient_signal is not None:
        coefficient = batch.signals[bonus.coefficient_signal][batch.group]
    return UpdateInputs(
        old_logprobs=old,
        advantages=advantages,
        hard=hard,
        entropy_weights=entropy_weights(
            hard,
            coefficient,
            batch.lengths,
            settings=bonus,
            anneal=entropy_anneal(progress, bonus.anneal, bonus.anneal_end),
            total=total,
        ),
        ea_mask=ea_mask(hard, bonus.method),
        settings=settings,
        importance=importance,
        bonus_mask=bonus_mask,
    )


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
    grace: float = 0.0,
) -> GradientResult:
    """Adds up the gradients of all micro-batches; `denominator` covers their rows on all ranks.

    `backward` receives a micro-batch's loss and whether it is the last one. A requested stop takes effect
    after a micro-batch, once it is `grace` seconds old. Raises RunError when GPU memory runs out.
    """
    sums: dict[str, Tensor] = {}
    not_finite = torch.zeros_like(batch.correct)
    row_entropy = torch.zeros_like(batch.scores)

    def loss_of(index: MicrobatchIndex) -> Tensor:
        sampled, rows = gather_tokens(policy, batch, index, inputs)

        def objective(logprobs: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
            terms = policy_objective(
                logprobs,
                entropy,
                sampled[tokens],
                denominator=denominator,
                settings=inputs.settings,
            )
            add_to(sums, terms.metrics)
            row_entropy.index_add_(0, rows[tokens], entropy.detach().to(row_entropy))
            finite = torch.isfinite(logprobs) & torch.isfinite(entropy)
            finite &= torch.isfinite(sampled.engine_logprobs[tokens])
            not_finite.index_put_((rows[tokens],), ~finite, accumulate=True)
            return terms.loss

        return policy.loss(objective=objective, **model_inputs(batch, index))

    for number, index in enumerate(index_microbatches(micro, batch), 1):
        try:
            with clock.phase("forward"):
                loss = loss_of(index)
                add_to(sums, {"loss": loss.detach()})
            with clock.phase("backward"):
                backward(loss, number == len(micro))
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"GPU memory ran out in a micro-batch of {index.shape[0]} x {index.shape[1]} tokens "
                f"({first_line(error)}). Lower optimizer.tokens_per_microbatch or "
                "model.head_chunk_tokens, or set model.gradient_checkpointing=true or "
                "engine.init_args.sleep=true; then resume with ckpt_path=last"
            ) from error
        shutdown.check(grace)
    # One transfer for the step: each number on its own would wait for the device.
    values = torch.stack([value.double() for value in sums.values()]).tolist()
    named = dict(zip(sums, values, strict=True))
    return GradientResult(
        loss=named.pop("loss"), sums=named, entropy=row_entropy, not_finite=not_finite
    )


def gather_tokens(
    policy: Policy, batch: RolloutBatch, index: MicrobatchIndex, inputs: UpdateInputs
) -> tuple[SampledTokens, Tensor]:
    """The response tokens [N] of a micro-batch in the head's order, and each one's row of the batch.

    Prompts and padding end here: no equation sees them.
    """
    settings, reference, mean_log_ratio = inputs.settings, None, None
    row = index.batch_index // batch.token_ids.shape[1]

    def of_tokens(values: Tensor) -> Tensor:
        return values.flatten().index_select(0, index.batch_index)

    def of_rows(values: Tensor) -> Tensor:
        return values.index_select(0, row)

    old_logprobs = of_tokens(inputs.old_logprobs)
    if settings.kl_coefficient > 0:
        logprobs = policy.reference_logprobs(**model_inputs(batch, index))
        reference = logprobs.flatten().index_select(0, index.response_index)
    if settings.ratio == "sequence":
        # A micro-batch holds whole rows: their ratios are known before the first chunk's loss.
        logprobs = policy(**model_inputs(batch, index))[0]
        log_ratio = logprobs.flatten().index_select(0, index.response_index) - old_logprobs
        sums = torch.zeros_like(batch.scores).index_add_(0, row, log_ratio.to(batch.scores))
        mean_log_ratio = of_rows(sums / batch.lengths.clamp(min=1))
    chosen = torch.ones_like(old_logprobs)
    if inputs.bonus_mask is not None:
        chosen = of_tokens(inputs.bonus_mask).to(old_logprobs)
    tokens = SampledTokens(
        old_logprobs=old_logprobs,
        engine_logprobs=of_tokens(batch.engine_logprobs),
        reference_logprobs=reference,
        mean_log_ratio=mean_log_ratio,
        importance=torch.ones_like(old_logprobs)
        if inputs.importance is None
        else of_tokens(inputs.importance),
        advantages=of_rows(inputs.advantages),
        hard=of_rows(inputs.hard),
        entropy_weights=of_rows(inputs.entropy_weights) * chosen,
        ea_mask=of_rows(inputs.ea_mask) * chosen,
        weights=of_rows(row_weights(batch.lengths, settings.aggregation)),
    )
    return tokens, row
