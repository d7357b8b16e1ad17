"""CEEHModule: one rollout batch in, one or more optimizer steps out.

Axes: P prompts, R rollout rows, T tokens. Manual optimization; the split into micro-batches changes no
number.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ceeh.config.hardware import CANARY_TOLERANCE
from ceeh.config.objective import READ_HARD
from ceeh.config.settings import Config
from ceeh.data.batch import RolloutBatch
from ceeh.errors import ConfigError
from ceeh.modules.advantages import correct_boost, group_advantages, group_sum
from ceeh.modules.aggregation import denominator_shares
from ceeh.modules.batching import (
    Microbatch,
    index_microbatches,
    microbatches,
    minibatches,
    model_inputs,
    padding_fraction,
)
from ceeh.modules.canary import check_first_ratio
from ceeh.modules.held_out_module import HeldOutModule
from ceeh.modules.metrics import RankMetrics, add_to, join_ranks, probe_metrics
from ceeh.modules.policy import Policy
from ceeh.modules.restore import load_policy
from ceeh.modules.shaping.base import ShapingInputs
from ceeh.modules.shaping.checked import build_shaping
from ceeh.modules.update import (
    GradientResult,
    UpdateInputs,
    accumulate_gradients,
    update_inputs,
)
from ceeh.pretrained.locate import open_trained
from ceeh.runtime.distributed import gather_objects
from ceeh.types import GroupOutcome


class CEEHModule(HeldOutModule):
    """Clipped policy loss with selective entropy; rewards shaped by `config.objective.shaping`."""

    if_not_finite = (
        "Their rows are in rollouts/skipped-*.parquet; lower optimizer.lr or "
        "objective.entropy.coefficient"
    )

    def __init__(self, config: Config, policy: Policy) -> None:
        super().__init__(config, policy)
        self.shaping = build_shaping(config)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's takes arguments of __init__
        cls, checkpoint_path: str | Path, *, trust_remote_code: bool = False
    ) -> "CEEHModule":
        """The module as a checkpoint in a run's folder holds it, on the CPU, in evaluation mode.

        Its configuration is the run's config.yaml, which also names the base model; log-probs are at the
        temperature of the rollouts. Raises ConfigError for a file that is damaged or outside a run.
        """
        source = open_trained(str(checkpoint_path), trust_remote_code=trust_remote_code)
        if source.config is None:
            raise ConfigError(
                f"'{checkpoint_path}' is not a checkpoint of a run; give a .ckpt file"
            )
        config = source.config
        policy = load_policy(
            source,
            temperature=config.rollouts.temperature,
            keep_reference=config.objective.kl_coefficient > 0,
        )
        return cls(config, policy).eval()

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> dict[str, Any]:
        """One rollout step: rewards [R], advantages [R], then one or more optimizer steps.

        Returns "rewards", "advantages", "entropy" (nats per token of each response), "skipped" [R] (rows
        that made an update not finite), "tokens" (response tokens of all ranks), "outcomes" (of all
        ranks' groups, the dropped ones too) and "probe" (of the probe questions). Raises ValueError for a
        batch that weights other than the current ones sampled.
        """
        self.clock.update_begins()
        if batch.policy_version != self.trainer.global_step:
            raise ValueError(
                f"rollout step {self.rollout_step}: sampled by policy version {batch.policy_version}, "
                f"trained at version {self.trainer.global_step}; the WeightSync callback must push "
                "after every step"
            )
        settings, optimizer = self.config.objective, self.config.optimizer
        shaping_inputs = ShapingInputs.of(
            batch, progress=self.rollout_step / self.config.rollouts.steps
        )
        rewards = self.shaping(shaping_inputs)
        advantages = group_advantages(
            rewards,
            batch.group,
            batch.num_prompts,
            kind=settings.advantage,
            lengths=batch.lengths,
            total=self.total,
        )
        advantages += correct_boost(batch.correct, rewards, settings.advantage_boost)

        def forward_old() -> tuple[Tensor, Tensor]:
            with self.clock.phase("old_logprobs"):
                return self.forward_rows(batch)

        inputs = update_inputs(
            batch,
            advantages,
            self.hard_rows(batch),
            settings=settings,
            progress=shaping_inputs.progress,
            forward=forward_old,
            total=self.total,
        )
        sums: dict[str, float] = {}
        padding = []
        skipped, entropy = torch.zeros_like(batch.correct), torch.zeros_like(batch.scores)
        row_tokens = batch.totals.cpu()
        prompts = optimizer.prompts_per_minibatch // self.trainer.world_size
        for rows in minibatches(batch.group.cpu(), batch.num_prompts, prompts):
            micro = microbatches(
                row_tokens, rows, optimizer.tokens_per_microbatch, packed=self.policy.packs
            )
            padding.append(padding_fraction(row_tokens, micro))
            found, bad = self.update(batch, micro, inputs)
            add_to(sums, found.sums)
            entropy += found.entropy
            skipped |= bad
        self.rollout_step += 1
        metrics = self.step_metrics(
            batch, rewards, inputs.hard, shaping_inputs, sums, updates=len(padding)
        )
        outcomes = gather_objects(self.outcomes(batch, entropy))
        metrics |= probe_metrics(batch.probe)
        metrics["optimizer/padding_fraction"] = sum(padding) / len(padding)
        metrics["time/update"] = self.clock.update_ends()
        self.log_dict(metrics, batch_size=1)
        return {
            "rewards": rewards,
            "advantages": advantages,
            "entropy": entropy / batch.lengths.clamp(min=1),
            "skipped": skipped,
            "tokens": metrics["rollout/tokens_total"],
            "outcomes": [outcome for rank in outcomes for outcome in rank],
            "probe": batch.probe,
        }

    def update(
        self, batch: RolloutBatch, micro: list[Microbatch], inputs: UpdateInputs
    ) -> tuple[GradientResult, Bool[Tensor, " R"]]:
        """One optimizer step: gradients of all micro-batches over one denominator, clipped, applied.

        Returns what was found, and the rows to blame for an update skipped as not finite.
        """
        rows = torch.cat([each.rows for each in micro])
        shares = denominator_shares(
            batch.lengths[rows],
            inputs.settings.aggregation,
            max_response_tokens=self.config.rollouts.max_response_tokens,
        )
        self.optimizers().zero_grad()  # type: ignore[union-attr]
        # Once the weights have changed only the end of the rollout step can be saved: a stop waits for it.
        changed = self.trainer.global_step > batch.policy_version
        found = accumulate_gradients(
            self.policy,
            batch,
            self.padded_to_equal_count(micro),
            inputs,
            denominator=self.total(shares.sum()),
            backward=self.backward_of,
            clock=self.clock,
            grace=self.config.checkpoints.stop_grace_seconds if changed else 0.0,
        )
        if not changed:
            self.check_first_step(batch, micro[0], inputs, found.sums)
        norm, finite = self.take_step(found.loss)
        bad = torch.zeros_like(batch.correct)
        if not finite:
            own = bad.index_fill(0, rows.to(bad.device), True)
            blamed = own & (found.not_finite | ~torch.isfinite(inputs.advantages))
            bad = blamed if blamed.any() else own
        return replace(found, sums=found.sums | {"grad_norm": norm}), bad

    def check_first_step(
        self, batch: RolloutBatch, micro: Microbatch, inputs: UpdateInputs, sums: dict[str, float]
    ) -> None:
        """Raises RunError if the ratio is not 1 although no update has been made.

        The adapter's dropout makes it random by design: the policy without it is compared then, once in a
        run, on one micro-batch.
        """
        config = self.config
        tolerance = CANARY_TOLERANCE[str(self.trainer.precision)]
        if config.objective.old_logprobs == "engine":
            tolerance = config.rollouts.canary_tolerance or tolerance
        difference, tokens = sums["abs_log_ratio"], sums["tokens"]
        if config.model.lora.rank and config.model.lora.dropout:
            if self.rollout_step > 0:
                return
            (index,) = index_microbatches([micro], batch)
            new = self.policy(**model_inputs(batch, index))[0]
            new = new.flatten().index_select(0, index.response_index)
            old = inputs.old_logprobs.flatten().index_select(0, index.batch_index)
            difference, tokens = float((new - old).abs().sum()), float(len(index.response_index))
        joined = self.total(torch.tensor([difference, tokens], device=self.device))
        check_first_ratio(
            float(joined[0] / joined[1]),
            self.policy,
            tolerance=tolerance,
            old=config.objective.old_logprobs,
        )

    def hard_rows(self, batch: RolloutBatch) -> Float[Tensor, " R"]:
        """1 for rows of hard prompts, from the signal that `objective.hard_signal` names; else 0."""
        settings = self.config.objective
        reads_none = settings.entropy.method not in READ_HARD
        if reads_none and settings.hard_signal not in batch.signals:
            return torch.zeros_like(batch.scores)
        return batch.signals[settings.hard_signal][batch.group]

    def outcomes(self, batch: RolloutBatch, entropy: Float[Tensor, " R"]) -> list[GroupOutcome]:
        """What signals observe of this rank's groups, with the `entropy` summed over each row's tokens."""
        of_groups = [
            group_sum(values, batch.group, batch.num_prompts) for values in (entropy, batch.lengths)
        ]
        unknown = torch.full((batch.num_prompts,), math.nan)
        hard = batch.signals.get(self.config.objective.hard_signal, unknown).tolist()
        return [
            replace(outcome, entropy=nats / tokens if tokens else math.nan, hard=hard)
            for outcome, nats, tokens, hard in zip(
                batch.outcomes, *(values.tolist() for values in of_groups), hard, strict=True
            )
        ] + list(batch.dropped)

    def step_metrics(
        self,
        batch: RolloutBatch,
        rewards: Tensor,
        hard: Tensor,
        shaping_inputs: ShapingInputs,
        sums: dict[str, float],
        updates: int,
    ) -> dict[str, float]:
        """The rollout step's metrics over all ranks."""
        measure = getattr(self.shaping, "metrics", None)
        shaping = measure(shaping_inputs) if measure else {}
        ranks = gather_objects(RankMetrics.of(batch, rewards, hard, shaping, sums))
        return join_ranks(ranks, updates) | {
            "rollout/step": float(self.rollout_step),
            "optimizer/lr": self.lr_schedulers().get_last_lr()[0],  # type: ignore[union-attr]
            "optimizer/skipped_in_a_row": float(self.bad_updates),
        }
