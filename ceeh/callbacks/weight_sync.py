"""WeightSync: pushes the trainer's weights to the engine after each step, and verifies that they arrived."""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ceeh.data.batch import RolloutBatch
from ceeh.data.engine.base import RolloutEngine
from ceeh.errors import RunError
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy

MAX_OVER_MEAN = 20
"""One token may differ by this multiple of the mean's tolerance. bf16 has long tails: on an H100 the
starter's 10,701 tokens differ by 0.011 nats on average and by 0.67 at most."""


class Difference(NamedTuple):
    """Between engine and trainer on the canary's tokens, in nats."""

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
    """Samples the canary with the engine and recomputes its log-probs with `policy`, in evaluation mode."""
    prompt, completion = engine.canary(temperature=temperature)
    token_ids = torch.tensor([prompt + completion.token_ids], device=device)
    mask = torch.arange(token_ids.shape[1], device=device)[None] >= len(prompt)
    with forward_context or nullcontext():
        logprobs: Tensor = policy(token_ids, mask)[0]
    engine_logprobs = torch.tensor(completion.logprobs, device=device)
    difference = (logprobs[mask].float() - engine_logprobs).abs()
    return Difference(float(difference.mean()), float(difference.max()))


class WeightSync(Callback):
    """Keeps `engine.policy_version` at the trainer's optimizer step.

    After every push the engine samples a completion of a short fixed prompt (the canary), and the trainer
    recomputes its log-probs. A mean difference above `tolerance` nats, or a single one above MAX_OVER_MEAN
    times that, raises RunError: with different weights in the engine, training would silently be off-policy.
    Mean and maximum are logged.
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
        pl_module.clock.add("push", seconds)
        pl_module.log("time/push", seconds, batch_size=1)
        pl_module.log("engine/canary_difference", difference.mean, batch_size=1)
        pl_module.log("engine/canary_difference_max", difference.max, batch_size=1)

    def push(self, trainer: Trainer, pl_module: LightningModule) -> Difference:
        """Streams the weights and compares the canary's log-probs."""
        assert isinstance(pl_module, CEEHModule)
        self.engine.wake()
        self.engine.load_weights(
            pl_module.policy.engine_weights(), policy_version=trainer.global_step
        )
        difference = self.canary_difference(trainer, pl_module)
        self.check(difference, trainer.global_step)
        return difference

    def check(self, difference: Difference, policy_version: int) -> None:
        """Raises RunError for a difference above the tolerance, or NaN."""
        if difference.exceeds(self.tolerance):
            raise RunError(
                f"after the push of policy version {policy_version} engine and trainer differ by "
                f"{difference.mean:.3g} nats on the canary (at most {difference.max:.3g}), more than the "
                f"tolerance of {self.tolerance:g} ({MAX_OVER_MEAN * self.tolerance:g} for one token); "
                "the engine's weights differ from the trainer's. Check that the installed vLLM is a tested "
                "version, or raise rollouts.canary_tolerance for a lossy engine dtype"
            )

    def canary_difference(self, trainer: Trainer, module: CEEHModule) -> Difference:
        training = module.training
        module.eval()
        difference = canary_difference(
            self.engine,
            module.policy,
            temperature=self.temperature,
            device=module.device,
            forward_context=trainer.precision_plugin.forward_context(),
        )
        module.train(training)
        return difference
