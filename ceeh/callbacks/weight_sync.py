"""WeightSync: pushes the trainer's weights to the engine after each step, and verifies that they arrived."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from ceeh.data.batch import RolloutBatch
from ceeh.data.engine.base import RolloutEngine
from ceeh.modules.canary import Difference, canary_difference, check_canary
from ceeh.modules.module import CEEHModule


class WeightSync(Callback):
    """Keeps `engine.policy_version` at the trainer's optimizer step.

    After every push the engine samples a completion of a short fixed prompt (the canary), and the trainer
    recomputes its log-probs. A mean difference above `tolerance` nats raises RunError: with different weights
    in the engine, training would silently be off-policy. Mean and maximum are logged.
    """

    def __init__(self, engine: RolloutEngine, *, tolerance: float) -> None:
        self.engine = engine
        self.tolerance = tolerance

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not on_fit_start: sharded strategies restore a checkpoint's weights after it.
        self.push(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.engine.wake()
        if self.engine.policy_version != trainer.global_step:
            self.push(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        self.engine.sleep()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, CEEHModule)
        begin = time.perf_counter()
        with torch.profiler.record_function("ceeh/push"):
            difference = self.push(trainer, pl_module)
        seconds = time.perf_counter() - begin
        pl_module.clock.add("push", seconds)
        pl_module.log("time/push", seconds, batch_size=1)
        pl_module.log("engine/canary_difference", difference.mean, batch_size=1)
        pl_module.log("engine/canary_difference_max", difference.max, batch_size=1)

    def push(self, trainer: Trainer, pl_module: LightningModule) -> Difference:
        """Streams the weights and compares the canary's log-probs."""
        assert isinstance(pl_module, CEEHModule)
        self.engine.wake()
        version = trainer.global_step
        self.engine.load_weights(pl_module.policy.engine_weights(), policy_version=version)
        difference = canary_difference(
            self.engine,
            pl_module.policy,
            temperature=pl_module.policy.temperature,
            device=pl_module.device,
            forward_context=trainer.precision_plugin.forward_context(),
        )
        when = f"after the push of policy version {version}"
        check_canary(difference, pl_module.policy, tolerance=self.tolerance, when=when)
        return difference
