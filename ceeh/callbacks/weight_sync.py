"""WeightSync: pushes the trainer's weights into the engine after each step, and proves that they arrived."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ceeh.component import RunError
from ceeh.data.engine import RolloutEngine
from ceeh.modules.module import CEEHModule
from ceeh.types import RolloutBatch


class WeightSync(Callback):
    """Keeps `engine.policy_version` at the trainer's optimiser step.

    After every push the engine samples a short fixed prompt and the trainer recomputes the log-probs
    (the canary). A largest difference above `tolerance` nats raises RunError: an engine with other
    weights than the trainer's would train on, silently, off-policy. The difference is logged.
    """

    def __init__(self, engine: RolloutEngine, *, tolerance: float, temperature: float) -> None:
        if not tolerance > 0:
            raise ValueError(f"tolerance must be greater than 0 nats, got {tolerance}")
        self.engine = engine
        self.tolerance = tolerance
        self.temperature = temperature

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
        pl_module.clock.phases.add("push", seconds)
        pl_module.log("time/push", seconds, batch_size=1)
        pl_module.log("engine/canary_difference", difference, batch_size=1)

    def push(self, trainer: Trainer, pl_module: LightningModule) -> float:
        """Streams the weights and returns the canary's largest log-prob difference in nats."""
        assert isinstance(pl_module, CEEHModule)
        self.engine.wake()
        self.engine.load_weights(
            pl_module.policy.engine_weights(), policy_version=trainer.global_step
        )
        difference = self.canary_difference(trainer, pl_module)
        if not difference <= self.tolerance:
            raise RunError(
                f"after the push of policy version {trainer.global_step} engine and trainer differ by "
                f"{difference:.3g} nats on the canary, more than the tolerance of {self.tolerance:g}; "
                "the engine holds other weights than the trainer. Check that the installed vLLM is one that "
                "ceeh was read against, or raise rollouts.canary_tolerance for a lossy engine dtype"
            )
        return difference

    @torch.no_grad()
    def canary_difference(self, trainer: Trainer, module: CEEHModule) -> float:
        prompt, completion = self.engine.canary(temperature=self.temperature)
        token_ids = torch.tensor([prompt + completion.token_ids], device=module.device)
        mask = torch.arange(token_ids.shape[1], device=module.device)[None] >= len(prompt)
        training = module.training
        module.eval()
        with trainer.precision_plugin.forward_context():
            logprobs: Tensor = module.policy(token_ids, mask)[0]
        module.train(training)
        engine_logprobs = torch.tensor(completion.logprobs, device=module.device)
        return float((logprobs[mask].float() - engine_logprobs).abs().max())
