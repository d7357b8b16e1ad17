"""Profiler: a trace of a few rollout steps that chrome://tracing and https://ui.perfetto.dev open."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from ceeh.data.batch import RolloutBatch
from ceeh.runtime.distributed import say

FIRST, STEPS = 2, 2
"""Steps 2 and 3 are traced: step 1 warms up caches and kernels."""


class Profiler(Callback):
    """Writes `trace-rank0.json.gz`, and one file per further rank, to `folder`.

    A trace covers whole steps, rollouts included; the phases are ranges named `ceeh/...`. Tracing slows a
    step down, so its times differ from the others'. Place this callback after all that it should trace.
    """

    def __init__(self, folder: Path, *, steps: int) -> None:
        self.folder = folder
        self.first = min(FIRST, steps)
        self.last = min(steps, self.first + STEPS - 1)
        self.profile: torch.profiler.profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.done = getattr(pl_module, "rollout_step", 0)
        self.first, self.last = self.first + self.done, self.last + self.done
        if self.first == self.done + 1:
            self.begin()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
    ) -> None:
        self.done += 1
        if self.done == self.last and self.profile is not None:
            self.end(trainer.global_rank)
        elif self.done == self.first - 1:
            self.begin()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.profile is not None:
            self.end(trainer.global_rank)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.profile is not None:
            self.profile.stop()
            self.profile = None

    def begin(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.profile = torch.profiler.profile(activities=activities)
        self.profile.start()

    def end(self, rank: int) -> None:
        assert self.profile is not None
        profile, self.profile = self.profile, None
        profile.stop()
        file = self.folder / f"trace-rank{rank}.json.gz"
        profile.export_chrome_trace(str(file))
        say(
            f"trace of steps {self.first} to {self.last}: {file} (opens in https://ui.perfetto.dev)"
        )
