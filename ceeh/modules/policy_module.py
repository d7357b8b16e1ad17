"""PolicyModule: what every training of a policy shares: optimizer steps, checkpoints and times.

Manual optimization: a step's gradient is summed over micro-batches of one denominator.
"""

import math
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from ceeh.config.settings import Optimizer
from ceeh.errors import RunError
from ceeh.modules.batching import EMPTY, Microbatch
from ceeh.modules.flops import utilization
from ceeh.modules.policy import Policy
from ceeh.modules.schedule import build_optimizer, learning_rate_scale, set_hyperparameters
from ceeh.modules.sharding import shard, sharded
from ceeh.modules.timing import UPDATE, StepClock, TimedBatch
from ceeh.run.checkpoint import BASE_WEIGHTS
from ceeh.run.sharded_strategy import ShardedStrategy
from ceeh.runtime.lightning_private import set_last_step


class PolicyModule(LightningModule):
    """Abstract: a subclass adds `training_step`, whose result has "tokens", and `validation_step`.

    `steps` batches make `updates` optimizer steps.
    """

    if_not_finite = "Lower optimizer.lr"
    """The cure for updates that are not finite, in an error."""

    def __init__(self, policy: Policy, settings: Optimizer, *, steps: int, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # with LoRA a checkpoint holds the adapter alone
        self.policy = policy
        self.settings = settings
        self.steps = steps
        self.updates = updates
        self.bad_updates = 0
        self.rollout_step = 0
        self.clock = StepClock()

    def configure_model(self) -> None:
        """Lightning calls this before each training and each validation."""
        if isinstance(self.trainer.strategy, ShardedStrategy) and not sharded(self.policy):
            shard(self.policy, self.trainer.strategy.device_mesh["data_parallel"])

    def padded_to_equal_count(self, micro: list[Microbatch]) -> list[Microbatch]:
        """`micro`; with sharded weights, whose forward passes are collective, as many on every rank."""
        if not sharded(self.policy):
            return micro
        most = torch.tensor(len(micro), device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return micro + [EMPTY] * (int(most) - len(micro))

    def take_step(self, loss: float) -> tuple[float, bool]:
        """The optimizer step of the gradients that were added up; skipped where they are not finite.

        `loss` is this rank's. Returns the gradient's norm before clipping, and whether all is finite.
        """
        with self.clock.phase("optimizer"):
            norm = torch.nn.utils.clip_grad_norm_(
                self.policy.trainable, self.settings.max_grad_norm
            )
            if isinstance(norm, DTensor):
                norm = norm.full_tensor()  # over the shards of all ranks
            total = self.total(torch.tensor(loss, device=self.device))
            finite = math.isfinite(float(norm)) and math.isfinite(float(total))
            self.apply_update(finite)
        return float(norm), finite

    def apply_update(self, finite: bool) -> None:
        """The optimizer's step; without gradients it only advances the counters, as it must."""
        if not finite:
            self.optimizers().zero_grad()  # type: ignore[union-attr]
        self.optimizers().step()  # type: ignore[union-attr]
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.bad_updates = 0 if finite else self.bad_updates + 1

    def backward_of(self, loss: Tensor, last: bool) -> None:
        """A micro-batch's backward pass; the last one's joins the gradients over ranks."""
        world_size, hold = self.trainer.world_size, nullcontext()
        if sharded(self.policy):
            # Gradients are whole until they are joined: an adapter's are small, those of all weights would
            # take more memory than sharding saves.
            cast(FSDPModule, self.policy).set_requires_gradient_sync(last or not self.policy.lora)
        elif world_size > 1 and not last:
            hold = cast(ParallelStrategy, self.trainer.strategy).block_backward_sync()
        with hold:
            self.manual_backward(loss * world_size)  # DDP and FSDP average over ranks

    def total(self, value: Tensor) -> Tensor:
        """`value` summed over ranks, in its own precision, counts in fp32."""
        value = value.clone() if value.is_floating_point() else value.float()
        if self.trainer.world_size > 1:
            dist.all_reduce(value)
        return value

    def on_train_start(self) -> None:
        self.clock.start()
        # A checkpoint restores its optimizer's settings; those of the configuration apply.
        schedule = cast(LambdaLR, self.lr_schedulers())
        set_hyperparameters(self.optimizers(), self.settings, schedule)

    def on_train_batch_end(self, outputs: Any, batch: TimedBatch, batch_idx: int) -> None:
        """Logs the step's times. Raises RunError after too many updates in a row were not finite."""
        metrics = self.clock.step_ends(batch, outputs["tokens"])
        seconds = sum(metrics[f"time/{phase}"] for phase in UPDATE)
        used = utilization(self.policy, batch.totals, seconds)
        self.log_dict(metrics | used, batch_size=1)
        if self.bad_updates >= self.settings.max_skipped_updates:
            raise RunError(
                f"loss or gradient was not finite in {self.bad_updates} updates in a row, the limit of "
                f"optimizer.max_skipped_updates; all were skipped. {self.if_not_finite} and resume with "
                "ckpt_path=last"
            )

    def configure_optimizers(self) -> Any:
        settings = self.settings
        optimizer = build_optimizer(settings, self.policy.trainable, self.device)
        scale = learning_rate_scale(
            settings.schedule, warmup=settings.warmup_steps, total=self.updates
        )
        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, scale)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With LoRA the frozen base weights stay out: they come from `model.path` again."""
        if self.policy.lora:
            state, trained = checkpoint["state_dict"], self.trained_names
            checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}
        checkpoint["bad_updates"] = self.bad_updates
        checkpoint["rollout_step"] = self.rollout_step
        checkpoint[BASE_WEIGHTS] = self.policy.base_digest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.bad_updates = checkpoint["bad_updates"]
        self.rollout_step = checkpoint["rollout_step"]
        set_last_step(checkpoint, self.rollout_step >= self.steps)
        if missing := self.trained_names - checkpoint["state_dict"].keys():
            raise ValueError(
                f"the checkpoint lacks {len(missing)} trained weights, e.g. '{min(missing)}'; "
                "resume with the model.path and model.lora it was written with"
            )

    @property
    def trained_names(self) -> set[str]:
        return {name for name, value in self.named_parameters() if value.requires_grad}
