"""Console: one line per rollout step, and the progress and result of an evaluation."""

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer

from ceeh.data.batch import RolloutBatch
from ceeh.runtime.distributed import say

PHASES = ("generate", "score", "update", "push")


class Console(Callback):
    """Prints the model and device, then one line per step, on rank 0; replaces Lightning's progress bar.

    `steps` is the run's number of rollout steps. A metric that has not been logged yet in the step is
    '-', so this callback comes after those that log.
    """

    def __init__(self, steps: int, title: str) -> None:
        self.steps = steps
        self.title = title

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = self.step_ended = time.perf_counter()
        self.steps_here = 0
        device = trainer.strategy.root_device.type
        say(f"{self.title} | {self.steps} steps | {trainer.world_size} x {device}")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
    ) -> None:
        now = time.perf_counter()
        seconds, self.step_ended = now - self.step_ended, now
        self.steps_here += 1
        done = batch_idx + 1
        remaining = (now - self.began) / self.steps_here * (self.steps - done)
        say(step_line(done, self.steps, logged(trainer), seconds, remaining))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_began = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        done, total = batch_idx + 1, int(trainer.num_val_batches[dataloader_idx])  # type: ignore[index]
        if done % math.ceil(total / 10) == 0 or done == total:
            say(f"held-out batch {done}/{total}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = logged(trainer)
        say(
            f"held-out  accuracy {shown(metrics, 'eval/accuracy', '{:.1%}')}  "
            f"tokens {shown(metrics, 'eval/tokens', '{:.1f}')}  "
            f"{time.perf_counter() - self.validation_began:.1f} s"
        )


def logged(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def step_line(
    done: int, steps: int, metrics: Mapping[str, float], seconds: float, remaining: float
) -> str:
    """One rollout step; entropy (nats per token) as easy/hard, times in seconds."""
    entropy = "/".join(
        shown(metrics, f"loss/entropy_{kind}", "{:.3f}") for kind in ("easy", "hard")
    )
    parts = [
        f"step {done:>{len(str(steps))}}/{steps}",
        f"accuracy {shown(metrics, 'rollout/accuracy', '{:.1%}')}",
        f"tokens {shown(metrics, 'rollout/tokens_mean', '{:.1f}')}",
        f"entropy {entropy}",
        f"hard {shown(metrics, 'signal/hard_fraction', '{:.0%}')}",
        f"{shown(metrics, 'rollout/tokens_per_second', '{:.0f}')} tokens/s",
        *(f"{phase} {shown(metrics, f'time/{phase}', '{:.1f}')}" for phase in PHASES),
        f"step {seconds:.1f} s",
        f"ETA {timedelta(seconds=round(remaining))}",
    ]
    return "  ".join(parts)


def shown(metrics: Mapping[str, float], name: str, form: str) -> str:
    """The metric in `form`; '-' when it was not logged or is NaN."""
    value = metrics.get(name, math.nan)
    return "-" if math.isnan(value) else form.format(value)
