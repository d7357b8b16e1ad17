"""Console: one line per rollout step, and a progress bar on a terminal."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ceeh.runtime.text import escape

PHASES = ("generate", "score", "update", "push")
HELD_OUT = (("accuracy", "eval/accuracy", "{:.1%}"), ("tokens", "eval/tokens", "{:.1f}"))
"""Word, metric and form of what an evaluation's line shows."""
SFT_HELD_OUT = (("nats/token", "eval/nats_per_token", "{:.4f}"),)
StepLine = Callable[[int, int, Mapping[str, float], float, float], str]


class Console(Callback):
    """Prints the model and device, then one line per step; replaces Lightning's progress bar.

    `steps` is the run's number of steps, `line` what a step prints, `held_out` what an evaluation prints.
    A metric that has not been logged yet in the step is '-', so this callback comes after those that log.
    Rank 0 only.
    """

    def __init__(
        self,
        steps: int,
        title: str,
        terminal: Terminal | None = None,
        line: StepLine | None = None,
        held_out: Sequence[tuple[str, str, str]] = HELD_OUT,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps = steps
        self.title = title
        self.terminal = terminal or Terminal()
        self.line = line or step_line
        self.held_out = held_out
        self.progress: Progress | None = None
        self.tasks: dict[str, Any] = {}
        self.began = self.step_ended = 0.0
        self.steps_here = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = self.step_ended = time.perf_counter()
        self.steps_here = 0
        if not trainer.is_global_zero:
            return
        device = trainer.strategy.root_device.type
        self.say(f"{self.title} | {self.steps} steps | {trainer.world_size} x {device}")

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
        if not trainer.is_global_zero:
            return
        done = batch_idx + 1
        remaining = (now - self.began) / self.steps_here * (self.steps - done)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.say(self.line(done, self.steps, metrics, seconds, remaining))
        self.advance("training", done, self.steps)

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
        if not trainer.is_global_zero:
            return
        done, total = batch_idx + 1, int(trainer.num_val_batches[dataloader_idx])  # type: ignore[index]
        if self.terminal.is_terminal:
            self.advance("held-out", done, total)
        elif done % math.ceil(total / 10) == 0 or done == total:
            self.say(f"held-out batch {done}/{total}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = time.perf_counter() - self.validation_began
        # The next validation has a new bar, with its own elapsed time.
        if self.progress is not None and (task := self.tasks.pop("held-out", None)) is not None:
            self.progress.remove_task(task)
        found = [f"{word} {shown(metrics, name, form)}" for word, name, form in self.held_out]
        self.say("  ".join(["held-out", *found, f"{seconds:.1f} s"]))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # Lightning does not call teardown then, and a live bar would leave the cursor hidden.
        self.close()

    def say(self, line: str) -> None:
        """Prints a whole line, above the bar."""
        self.terminal.print(escape(line), soft_wrap=True, markup=False, highlight=False)

    def advance(self, name: str, done: int, total: int) -> None:
        """Moves the bar of `name`; does nothing without a terminal."""
        if not self.terminal.is_terminal:
            return
        if self.progress is None:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.terminal,
            )
            self.progress.start()
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.progress, self.tasks = None, {}


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
        f"ETA {clock(remaining)}",
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
        f"ETA {clock(remaining)}",
    ]
    return "  ".join(parts)


def shown(metrics: Mapping[str, float], name: str, form: str) -> str:
    """The metric in `form`; '-' when it was not logged or is NaN."""
    value = metrics.get(name, math.nan)
    return "-" if math.isnan(value) else form.format(value)


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
