"""Profiler: a trace of a few rollout steps that chrome://tracing and https://ui.perfetto.dev open."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerAction, profile

from ceeh.runtime.distributed import say

FIRST, STEPS = 2, 2
"""Steps 2 and 3 are traced: step 1 warms up caches and kernels."""


class Profiler(Callback):
    """Writes `trace-rank0.json.gz`, and one file per further rank, to `folder`.

    A trace covers whole steps, rollouts included; the phases are ranges named `ceeh/...`. Tracing slows a
    step down, so its times differ from the others'. Place this callback after all that it should trace.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.profile: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = getattr(pl_module, "rollout_step", 0)
        left = int(trainer.num_training_batches) - done
        first = min(FIRST, left)
        last = min(left, first + STEPS - 1)

        def action(step: int) -> ProfilerAction:
            if step + 1 == last:
                return ProfilerAction.RECORD_AND_SAVE
            return ProfilerAction.RECORD if first <= step + 1 < last else ProfilerAction.NONE

        def export(traced: profile) -> None:
            file = self.folder / f"trace-rank{trainer.global_rank}.json.gz"
            traced.export_chrome_trace(str(file))
            steps = f"steps {first + done} to {last + done}"
            say(f"trace of {steps}: {file} (opens in https://ui.perfetto.dev)")

        self.profile = profile(schedule=action, on_trace_ready=export)
        self.profile.start()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self.profile is not None:
            self.profile.step()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.stop()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        if self.profile is not None:
            self.profile.on_trace_ready = None  # the end of the run does not wait for half a trace
        self.stop()

    def stop(self) -> None:
        if self.profile is not None:
            self.profile.stop()
            self.profile = None
