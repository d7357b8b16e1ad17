"""RunCheckpoint: every n rollout steps, and after the last one."""

import warnings
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from ceeh.checkpoint import checkpoint_file, checkpoint_files
from ceeh.checkpoint_io import Failure, WholeCheckpointIO
from ceeh.component import ConfigError
from ceeh.disk_space import readable
from ceeh.jsonl import JSONLLogger
from ceeh.ranks import from_rank_zero

METRICS = "metrics"
"""Of the checkpoint's step, as `metrics.jsonl` has them."""


class RunCheckpoint(Checkpoint):
    """`step-*.ckpt` of the `keep` newest; the newest of them is where the run goes on.

    A checkpoint lies between two rollout steps: after the step's evaluation if it has one
    (`evaluate_every_n_steps`; 0 is never). Lightning logs a step after its last callback and a run
    may be killed in between, so the step's line of `metrics.jsonl` is in the checkpoint.

    A save that fails is warned of and the training goes on; `max_failures` in a row raise
    ConfigError, and so does the first one that numbers prevent which are not finite.
    """

    def __init__(
        self,
        folder: Path,
        io: WholeCheckpointIO,
        jsonl: JSONLLogger,
        *,
        steps: int,
        every_n_steps: int,
        evaluate_every_n_steps: int,
        keep: int,
        max_failures: int,
    ) -> None:
        self.folder = folder
        self.io = io
        self.jsonl = jsonl
        self.steps = steps
        self.every_n_steps = every_n_steps
        self.evaluate_every_n_steps = evaluate_every_n_steps
        self.keep = keep
        self.max_failures = max_failures
        self.failures = 0
        self.due: int | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rollout_step = batch_idx + 1
        if rollout_step % self.every_n_steps and rollout_step < self.steps:
            return
        # A run that goes on from here would leave out this step's evaluation: Lightning takes it
        # for done.
        if self.evaluate_every_n_steps and rollout_step % self.evaluate_every_n_steps == 0:
            self.due = rollout_step
        else:
            self.save(trainer, rollout_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due is not None:
            rollout_step, self.due = self.due, None
            self.save(trainer, rollout_step)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        measured = {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in trainer._logger_connector.metrics["log"].items()
        }
        batches = trainer.fit_loop.epoch_loop._batches_that_stepped
        checkpoint[METRICS] = self.jsonl.row(measured | {"epoch": trainer.current_epoch}, batches)

    def save(self, trainer: Trainer, rollout_step: int) -> None:
        """Collective. Raises ConfigError, on all ranks, when the run should not go on."""
        trainer.save_checkpoint(checkpoint_file(self.folder, rollout_step))
        failure = from_rank_zero(lambda: self.io.failure)
        if failure is not None:
            self.failed(failure, rollout_step, warn=trainer.is_global_zero)
            return
        self.failures = 0
        for outdated in (
            *list(checkpoint_files(self.folder).values())[self.keep :],
            *self.folder.glob("*.abandoned"),
        ):
            trainer.strategy.remove_checkpoint(outdated)

    def failed(self, failure: Failure, rollout_step: int, *, warn: bool) -> None:
        self.failures += 1
        newest = next(iter(checkpoint_files(self.folder).values()), None)
        there = f"the newest is {newest.name}" if newest else "the run has none yet"
        if failure.poisoned:
            raise ConfigError(
                f"the checkpoint of rollout step {rollout_step} would be poisoned: {failure.reason}. It was "
                f"not written, {there}; lower optimizer.lr or objective.entropy.coefficient and continue "
                "with ckpt_path=last"
            )
        words = (
            f"the checkpoint of rollout step {rollout_step} was not written ({failure.reason}): it takes "
            f"{readable(failure.needed)}, {readable(failure.free)} are free in '{self.folder}'; {there}"
        )
        if self.failures >= self.max_failures:
            raise ConfigError(
                f"{words}. That was failure {self.failures} in a row (checkpoints.max_failures); make room "
                "and continue with ckpt_path=last"
            )
        if warn:
            warnings.warn(
                f"{words}. Make room there; training goes on, until failure {self.max_failures} in a row "
                f"(checkpoints.max_failures), this is number {self.failures}",
                stacklevel=2,
            )
