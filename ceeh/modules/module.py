"""CEEHModule: one rollout batch in, one or more optimizer steps out.

`training_step` reads like the paper: shaped rewards [R], advantages [R], then per micro-batch the
per-token objective [R T] and its gradient. Manual optimisation; numbers do not depend on the split.
"""

import math
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from lightning import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ceeh.config.settings import Config
from ceeh.data.batch import RolloutBatch
from ceeh.errors import RunError
from ceeh.evaluation.metrics import figures
from ceeh.evaluation.samples import SampleMetric
from ceeh.modules.advantages import group_advantages
from ceeh.modules.aggregation import denominator_shares
from ceeh.modules.batching import Microbatch, microbatches, minibatches, padding_fraction
from ceeh.modules.metrics import RankNumbers, add_to, joined
from ceeh.modules.objective import entropy_anneal
from ceeh.modules.policy import Policy
from ceeh.modules.schedule import learning_rate_scale, optimizer_steps, set_hyperparameters
from ceeh.modules.shaping.base import MeasuredShaping, ShapingInputs, build_shaping
from ceeh.modules.timing import StepClock
from ceeh.modules.update import UpdateInputs, accumulate_gradients
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import gather_objects

EVAL_FIGURES = ("accuracy", "tokens", "truncated_fraction", "entropy")


class CEEHModule(LightningModule):
    """Clipped policy loss with selective entropy; rewards shaped by `config.objective.shaping`."""

    def __init__(self, config: Config, policy: Policy) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # with LoRA a checkpoint holds the adapter alone
        self.config = config
        self.policy = policy
        self.shaping = build_shaping(config)
        self.held_out = SampleMetric()
        self.bad_updates = 0
        self.rollout_step = 0
        self.clock = StepClock()

    def on_train_start(self) -> None:
        self.clock.start()
        # A checkpoint restores its optimizer's settings; those of the configuration hold.
        schedule = cast(LambdaLR, self.lr_schedulers())
        set_hyperparameters(self.optimizers(), self.config.optimizer, schedule)

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> dict[str, Tensor]:
        """All optimizer steps of one rollout step.

        Returns the rows' rewards and advantages, and which rows made an update that was skipped.
        Raises ValueError for a batch that other weights than the present ones have sampled.
        """
        self.clock.update_begins()
        if batch.policy_version != self.trainer.global_step:
            raise ValueError(
                f"rollout step {self.rollout_step}: sampled by policy version {batch.policy_version}, "
                "trained at "
                f"version {self.trainer.global_step}; the WeightSync callback must push after every step"
            )
        settings = self.config.objective
        progress = self.rollout_step / self.config.rollouts.steps
        inputs = ShapingInputs.of(batch, progress)
        rewards = self.shaping(inputs)
        advantages = group_advantages(
            rewards, batch.group, batch.num_prompts, kind=settings.advantage
        )
        anneal = entropy_anneal(progress, settings.entropy.anneal)
        old_logprobs = self.old_logprobs(batch)
        sums: dict[str, float] = {}
        padding = []
        skipped = torch.zeros_like(batch.correct)
        share = self.config.optimizer.prompts_per_minibatch // self.trainer.world_size
        totals = batch.totals.cpu()
        rows_of_steps = minibatches(batch.group.cpu(), batch.num_prompts, share)
        for rows in rows_of_steps:
            micro = microbatches(totals, rows, self.config.optimizer.tokens_per_microbatch)
            padding.append(padding_fraction(totals, micro))
            step_sums, bad = self.update(batch, micro, old_logprobs, advantages, anneal)
            add_to(sums, step_sums)
            skipped |= bad
        self.rollout_step += 1
        self.log_step(batch, rewards, inputs, sums, len(rows_of_steps))
        self.log("optimizer/padding_fraction", sum(padding) / len(padding), batch_size=1)
        self.log("time/update", self.clock.update_ends(), batch_size=1)
        return {"rewards": rewards, "advantages": advantages, "skipped": skipped}

    def old_logprobs(self, batch: RolloutBatch) -> Float[Tensor, "R T"]:
        """What the ratio divides by: the engine's own log-probs, or the trainer's before any step."""
        if self.config.objective.old_logprobs == "engine":
            return batch.engine_logprobs
        return self.forward_rows(batch)[0]

    @torch.no_grad()
    def forward_rows(
        self, batch: RolloutBatch
    ) -> tuple[Float[Tensor, "R T"], Float[Tensor, "R T"]]:
        """Log-probs and entropy (nats) of every row's response tokens, without gradient, in fp32."""
        logprobs = torch.zeros_like(batch.engine_logprobs)
        entropy = torch.zeros_like(batch.engine_logprobs)
        totals = batch.totals.cpu()
        limit = self.config.optimizer.tokens_per_microbatch
        for cut in microbatches(totals, torch.arange(len(totals)), limit):
            shutdown.check()
            rows, width = cut.rows, cut.width
            token_ids, mask = batch.token_ids[rows, :width], batch.response_mask[rows, :width]
            for filled, values in zip(
                (logprobs, entropy), self.policy(token_ids, mask), strict=True
            ):
                filled[rows, :width] = values.float()
        return logprobs, entropy

    def update(
        self,
        batch: RolloutBatch,
        micro: list[Microbatch],
        old_logprobs: Tensor,
        advantages: Tensor,
        anneal: float,
    ) -> tuple[dict[str, float], Bool[Tensor, " R"]]:
        """Gradients of all micro-batches over one denominator, clipped, applied unless not finite.

        Returns the sums over tokens, and the rows to blame where the update was skipped.
        """
        settings = self.config.objective
        rows = torch.cat([cut.rows for cut in micro])
        shares = denominator_shares(
            batch.lengths[rows],
            settings.aggregation,
            max_response_tokens=self.config.rollouts.max_response_tokens,
        )
        inputs = UpdateInputs(
            old_logprobs=old_logprobs,
            advantages=advantages,
            hard=self.hard(batch),
            denominator=self.total(shares.sum()),
            settings=settings,
            anneal=anneal,
        )
        self.optimizers().zero_grad()  # type: ignore[union-attr]
        # Once the weights have changed only the end of the rollout step can be saved: a stop waits for it.
        changed = self.trainer.global_step > batch.policy_version
        found = accumulate_gradients(
            self.policy,
            batch,
            micro,
            inputs,
            backward=self.backward_of,
            phases=self.clock.phases,
            patience=shutdown.GRACE_SECONDS if changed else 0.0,
        )
        with self.clock.phases("optimizer"):
            norm = torch.nn.utils.clip_grad_norm_(
                self.policy.trainable, self.config.optimizer.max_grad_norm
            )
            loss = self.total(torch.tensor(found.loss, device=self.device))
            finite = math.isfinite(float(norm)) and math.isfinite(float(loss))
            self.apply_update(finite)
        bad = torch.zeros_like(batch.correct)
        if not finite:
            blamed = found.not_finite | ~torch.isfinite(advantages)
            own = torch.zeros_like(bad).index_fill(0, rows.to(bad.device), True)
            bad = blamed & own if (blamed & own).any() else own
        return found.sums | {"grad_norm": float(norm)}, bad

    def backward_of(self, loss: Tensor, last: bool) -> None:
        """A micro-batch's backward pass; gradients are joined over ranks with the last one's."""
        world_size = self.trainer.world_size
        hold = (
            nullcontext()
            if last or world_size == 1
            else cast(ParallelStrategy, self.trainer.strategy).block_backward_sync()
        )
        with hold:
            self.manual_backward(loss * world_size)  # DDP averages over ranks

    def apply_update(self, finite: bool) -> None:
        """The optimizer's step, skipped and counted when loss or gradient is not finite."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        if not finite:
            optimizer.zero_grad()  # type: ignore[union-attr]
        # With the gradients gone the step changes nothing but the counters, which must go on.
        optimizer.step()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr]
        self.bad_updates = 0 if finite else self.bad_updates + 1

    def hard(self, batch: RolloutBatch) -> Float[Tensor, " R"]:
        """1 for rows of hard prompts, from the signal that `objective.hard_signal` names; else 0."""
        settings = self.config.objective
        reads_none = settings.entropy.method in ("uniform", "none")
        if reads_none and settings.hard_signal not in batch.signals:
            return torch.zeros_like(batch.scores)
        return batch.signals[settings.hard_signal][batch.group]

    def total(self, value: Tensor) -> Tensor:
        """`value` summed over ranks."""
        value = value.clone().float()
        if self.trainer.world_size > 1:
            dist.all_reduce(value)
        return value

    def log_step(
        self,
        batch: RolloutBatch,
        rewards: Tensor,
        inputs: ShapingInputs,
        sums: dict[str, float],
        updates: int,
    ) -> None:
        """Logs the step's numbers over all ranks."""
        own = self.shaping.metrics(inputs) if isinstance(self.shaping, MeasuredShaping) else {}
        numbers = RankNumbers.of(batch, rewards, own, sums)
        metrics = joined(gather_objects(self.trainer, numbers), updates)
        metrics["rollout/step"] = float(self.rollout_step)
        metrics["optimizer/lr"] = self.lr_schedulers().get_last_lr()[0]  # type: ignore[union-attr]
        metrics["optimizer/skipped_in_a_row"] = float(self.bad_updates)
        self.clock.tokens = metrics["rollout/tokens_total"]
        self.log_dict(metrics, batch_size=1)

    def on_train_batch_end(self, outputs: Any, batch: RolloutBatch, batch_idx: int) -> None:
        """Raises RunError when too many updates in a row were not finite."""
        reference = self.config.objective.kl_coefficient > 0
        self.log_dict(self.clock.step_ended(batch, self.policy, reference=reference), batch_size=1)
        if self.bad_updates >= self.config.optimizer.max_skipped_updates:
            raise RunError(
                f"loss or gradient was not finite in {self.bad_updates} updates in a row, as many as "
                "optimizer.max_skipped_updates allows; none of them was applied. Their rows are in "
                "rollouts/skipped-*.parquet; lower optimizer.lr or objective.entropy.coefficient "
                "and resume with ckpt_path=last"
            )

    def validation_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Held-out questions: correctness and lengths as sampled, entropy by the policy's own forward."""
        entropy_sums = self.forward_rows(batch)[1].sum(1)
        questions = (batch.num_prompts, -1)
        device = batch.lengths.device
        index = [scored.group.prompt.metadata["held_out_index"] for scored in batch.groups]
        finished = [outcome.finished for outcome in batch.outcomes]
        self.held_out.update(
            torch.tensor(index, device=device),
            correct=batch.correct.view(questions),
            lengths=batch.lengths.view(questions),
            finished=torch.tensor(finished, device=device),
            entropy=(entropy_sums / batch.lengths).view(questions),
        )

    def on_validation_end(self) -> None:
        self.clock.start()  # an evaluation is not part of the next step

    def on_validation_epoch_end(self) -> None:
        self.held_out_table = self.held_out.compute()
        self.held_out.reset()
        found = figures(self.held_out_table)
        names = (*EVAL_FIGURES, f"pass_at_{self.held_out_table.samples}")
        self.log_dict({f"eval/{name}": found[name] for name in names})

    def configure_optimizers(self) -> Any:
        settings = self.config.optimizer
        updates = self.config.rollouts.steps * optimizer_steps(self.config)
        # One kernel for all weights on a GPU; on the CPU it would change the order of rounding.
        optimizer = AdamW(self.policy.trainable, fused=self.device.type == "cuda" or None)
        set_hyperparameters(optimizer, settings)
        scale = learning_rate_scale(settings.schedule, warmup=settings.warmup_steps, total=updates)
        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, scale)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With LoRA the frozen base weights stay out: they come from `model.path` again."""
        trained = {name for name, value in self.named_parameters() if value.requires_grad}
        if self.policy.lora:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}
        checkpoint["bad_updates"] = self.bad_updates
        checkpoint["rollout_step"] = self.rollout_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.bad_updates = checkpoint["bad_updates"]
        self.rollout_step = checkpoint["rollout_step"]
        # With more rollouts.steps than before, a run that had come to its end goes on.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        progress["is_last_batch"] = self.rollout_step >= self.config.rollouts.steps
        trained = {name for name, value in self.named_parameters() if value.requires_grad}
        if missing := trained - checkpoint["state_dict"].keys():
            raise ValueError(
                f"the checkpoint lacks {len(missing)} trained weights, e.g. '{min(missing)}'; "
                "resume with the model.path and model.lora it was written with"
            )
