"""Console: one line per rollout step, and the progress and result of an evaluation."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer

from ceeh.runtime.distributed import say

HELD_OUT = (("accuracy", "eval/accuracy", "{:.1%}"), ("tokens", "eval/tokens", "{:.1f}"))
"""Word, metric and form of what an evaluation's line shows."""
SFT_HELD_OUT = (("nats/token", "eval/nats_per_token", "{:.4f}"),)
StepLine = Callable[[int, int, Mapping[str, float], float, float], str]


class Console(Callback):
    """Prints the model and device, then one line per step, on rank 0; replaces Lightning's progress bar.

    `steps` is the run's number of steps, `line` what a step prints, `held_out` what an evaluation prints.
    A metric that has not been logged yet in the step is '-', so this callback comes after those that log.
    """

    def __init__(
        self,
        steps: int,
        title: str,
        line: StepLine | None = None,
        held_out: Sequence[tuple[str, str, str]] = HELD_OUT,
    ) -> None:
        self.steps = steps
        self.title = title
        self.line = line or step_line
        self.held_out = held_out

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
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.perf_counter()
        seconds, self.step_ended = now - self.step_ended, now
        self.steps_here += 1
        done = batch_idx + 1
        remaining = (now - self.began) / self.steps_here * (self.steps - done)
        say(self.line(done, self.steps, logged(trainer), seconds, remaining))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_began = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        done, total = batch_idx + 1, int(trainer.num_val_batches[dataloader_idx])  # type: ignore[index]
        if done % math.ceil(total / 10) == 0 or done == total:
            say(f"held-out batch {done}/{total}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = logged(trainer)
        found = [f"{word} {shown(metrics, name, form)}" for word, name, form in self.held_out]
        say("  ".join(["held-out", *found, f"{time.perf_counter() - self.validation_began:.1f} s"]))


def logged(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def step_line(
    done: int, steps: int, metrics: Mapping[str, float], seconds: float, remaining: float
) -> str:
    """One rollout step in 100 columns; entropy in nats per token of easy and of hard questions.

    The other metrics, such as the time of each phase, are in metrics.jsonl.
    """
    entropy = "/".join(
        shown(metrics, f"loss/entropy_{kind}", "{:.3f}") for kind in ("easy", "hard")
    )
    parts = [
        f"step {done:>{len(str(steps))}}/{steps}",
        f"accuracy {shown(metrics, 'rollout/accuracy', '{:.1%}')}",
        f"tokens {shown(metrics, 'rollout/tokens_mean', '{:.1f}')}",
        f"entropy easy/hard {entropy}",
        f"{seconds:.1f} s",
        f"ETA {timedelta(seconds=round(remaining))}",
    ]
    return "  ".join(parts)


def sft_line(
    done: int, steps: int, metrics: Mapping[str, float], seconds: float, remaining: float
) -> str:
    """One step of supervised training."""
    parts = [
        f"step {done:>{len(str(steps))}}/{steps}",
        f"nats/token {shown(metrics, 'loss/nats_per_token', '{:.4f}')}",
        f"{shown(metrics, 'loss/tokens', '{:.0f}')} tokens",
        f"step {seconds:.1f} s",
        f"ETA {timedelta(seconds=round(remaining))}",
    ]
    return "  ".join(parts)


def shown(metrics: Mapping[str, float], name: str, form: str) -> str:
    """The metric in `form`; '-' when it was not logged or is NaN."""
    value = metrics.get(name, math.nan)
    return "-" if math.isnan(value) else form.format(value)
