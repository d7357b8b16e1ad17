"""RunCheckpoint: every n rollout steps, after the last one, and when a run is stopped."""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from ceeh.callbacks.rng_state import KEY as GENERATORS
from ceeh.callbacks.rng_state import RNGState
from ceeh.errors import ConfigError
from ceeh.run.checkpoint import checkpoint_file, checkpoint_files
from ceeh.run.checkpoint_io import Failure, WholeCheckpointIO
from ceeh.run.disk_space import format_bytes
from ceeh.run.metrics_file import JSONLLogger
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import from_rank_zero, say
from ceeh.runtime.shutdown import Stopped

METRICS = "metrics"
"""Of the checkpoint's step, as `metrics.jsonl` has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedStep:
    """What of a checkpoint changes before the next optimizer step, as it stood when the step was over.

    Weights, optimizer and tables do not change until then, so this and they are the step's checkpoint.
    What a callback of one's own keeps must not either: a signal changes in `observe` alone.
    """

    rollout_step: int
    row: dict[str, Any]
    fit_loop: dict[str, Any]
    generators: list[dict[str, Any]]


class RunCheckpoint(Checkpoint):
    """`step-*.ckpt` of the `keep` newest; the newest of them is where the run goes on.

    A checkpoint lies between two rollout steps: after the step's evaluation if it has one
    (`evaluate_every_n_steps`; 0 is never). Lightning logs a step after its last callback and a run
    may be killed in between, so the step's line of `metrics.jsonl` is in the checkpoint.

    A save that fails is warned of and the training goes on; `max_failures` in a row raise
    ConfigError, and so does the first one that numbers prevent which are not finite.

    A run that a signal or an error ends leaves the checkpoint of the last finished step, unless the step
    under way has changed the weights already; a step's evaluation is then begun again on a resume.
    """

    def __init__(
        self,
        folder: Path,
        io: WholeCheckpointIO,
        jsonl: JSONLLogger,
        generators: RNGState,
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
        self.generators = generators
        self.steps = steps
        self.every_n_steps = every_n_steps
        self.evaluate_every_n_steps = evaluate_every_n_steps
        self.keep = keep
        self.max_failures = max_failures
        self.failures = 0
        self.finished: FinishedStep | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation = trainer.fit_loop.epoch_loop.val_loop
        if evaluation.restarted_mid_evaluation:  # as `mark_evaluation_begun` told
            evaluation.batch_progress.total.reset_on_restart()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        # Now the weights change, and there is nothing to save until the step is over.
        shutdown.delay()
        self.finished = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rollout_step = batch_idx + 1
        # Lightning takes this step's evaluation for done in a checkpoint that it writes here.
        every_n_steps = self.evaluate_every_n_steps
        evaluated = every_n_steps > 0 and rollout_step % every_n_steps == 0
        self.note_finished(trainer, rollout_step, evaluation_to_come=evaluated)
        if self.is_due(rollout_step) and not evaluated:
            self.save(trainer, rollout_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            rollout_step = trainer.fit_loop.epoch_loop.batch_idx + 1
            self.note_finished(trainer, rollout_step, evaluation_to_come=True)
            shutdown.release()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            rollout_step = trainer.fit_loop.epoch_loop.batch_idx + 1
            self.note_finished(trainer, rollout_step, evaluation_to_come=False)
            if self.is_due(rollout_step):
                self.save(trainer, rollout_step)

    def is_due(self, rollout_step: int) -> bool:
        return rollout_step % self.every_n_steps == 0 or rollout_step >= self.steps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finished = None
        shutdown.release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """On rank 0 alone, without the other ranks: each may have been left anywhere."""
        # Any other BaseException wants out at once.
        expected = isinstance(exception, Stopped | Exception)
        if self.finished is None or not expected or not trainer.is_global_zero:
            return
        with shutdown.held():
            step, self.finished = self.finished, None
            try:
                self.save_finished(trainer, step)
            except Exception as error:
                # A lost device, a table that cannot be kept: not to hide why the run ends.
                warnings.warn(
                    f"rollout step {step.rollout_step} could not be saved ({type(error).__name__}: "
                    f"{error}); the run goes on from the checkpoint before it",
                    stacklevel=2,
                )

    def save_finished(self, trainer: Trainer, step: FinishedStep) -> None:
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        checkpoint["loops"]["fit_loop"] = step.fit_loop
        checkpoint |= {METRICS: step.row, GENERATORS: step.generators}
        self.io.save_checkpoint(checkpoint, checkpoint_file(self.folder, step.rollout_step))
        if self.io.failure is not None:
            raise OSError(self.io.failure.reason)
        say(f"rollout step {step.rollout_step} is saved")
        self.remove_outdated()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[METRICS] = self.row(trainer)

    def note_finished(
        self, trainer: Trainer, rollout_step: int, *, evaluation_to_come: bool
    ) -> None:
        fit_loop = copy.deepcopy(trainer.fit_loop.state_dict())
        if evaluation_to_come:
            mark_evaluation_begun(fit_loop)
        self.finished = FinishedStep(
            rollout_step=rollout_step,
            row=self.row(trainer),
            fit_loop=fit_loop,
            generators=self.generators.gathered,
        )

    def row(self, trainer: Trainer) -> dict[str, Any]:
        """The step's line of `metrics.jsonl`."""
        measured = {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in trainer._logger_connector.metrics["log"].items()
        }
        batches = trainer.fit_loop.epoch_loop._batches_that_stepped
        return self.jsonl.row(measured | {"epoch": trainer.current_epoch}, batches)

    def save(self, trainer: Trainer, rollout_step: int) -> None:
        """Collective. Raises ConfigError, on all ranks, when the run should not go on."""
        trainer.save_checkpoint(checkpoint_file(self.folder, rollout_step))
        failure = from_rank_zero(lambda: self.io.failure)
        step, self.finished = self.finished, None  # nothing new until the next one
        if failure is not None:
            self.failed(failure, rollout_step, warn=trainer.is_global_zero)
            self.finished = step
            return
        self.failures = 0
        if trainer.is_global_zero:
            self.remove_outdated()

    def remove_outdated(self) -> None:
        for outdated in (
            *list(checkpoint_files(self.folder).values())[self.keep :],
            *self.folder.glob("*.abandoned"),
        ):
            self.io.remove_checkpoint(outdated)

    def failed(self, failure: Failure, rollout_step: int, *, warn: bool) -> None:
        self.failures += 1
        newest = next(iter(checkpoint_files(self.folder).values()), None)
        there = f"the newest is {newest.name}" if newest else "the run has none yet"
        if failure.poisoned:
            raise ConfigError(
                f"the checkpoint of rollout step {rollout_step} contains NaN or infinity: "
                f"{failure.reason}. It was not written, {there}; lower optimizer.lr or "
                "objective.entropy.coefficient and continue with ckpt_path=last"
            )
        words = (
            f"the checkpoint of rollout step {rollout_step} was not written ({failure.reason}): it takes "
            f"{format_bytes(failure.needed)}, {format_bytes(failure.free)} are free in '{self.folder}'; "
            f"{there}"
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


def mark_evaluation_begun(fit_loop: dict[str, Any]) -> None:
    """Marks the step as over and its evaluation as begun, as Lightning tells from the counters."""
    for counters in fit_loop["epoch_loop.batch_progress"].values():
        if isinstance(counters, dict):
            counters["completed"] = counters["ready"]
    progress = fit_loop["epoch_loop.val_loop.batch_progress"]
    for counter in progress["current"]:
        progress["current"][counter] = 0
    for counter in ("ready", "started"):
        progress["total"][counter] = progress["total"]["completed"] + 1
