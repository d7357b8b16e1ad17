"""RunCheckpoint: every n rollout steps, after the last one, and when a run is stopped or ends early."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from ceeh.config.settings import Checkpoints
from ceeh.errors import RunError
from ceeh.run.checkpoint import RNG_STATES, checkpoint_file, checkpoint_files
from ceeh.run.checkpoint_io import AtomicCheckpointIO, Failure
from ceeh.run.disk_space import format_bytes
from ceeh.run.metrics_file import JSONLLogger
from ceeh.run.sharded_strategy import ShardedStrategy
from ceeh.runtime.distributed import from_rank_zero, gather_objects
from ceeh.runtime.lightning_private import (
    batches_begun,
    dump_checkpoint,
    forget_interrupted_evaluation,
    loop_state,
    set_loop_state,
    step_metrics,
)
from ceeh.runtime.rng import read_rng, set_rng
from ceeh.runtime.shutdown import Stopped

METRICS = "metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedStep:
    """The parts of a checkpoint that change before the next optimizer step, as of the end of the step.

    Weights, optimizer and tables do not change until then, so with them this is the step's checkpoint. The
    state of custom callbacks must not change either: a difficulty signal changes in `observe` only.
    """

    rollout_step: int
    metrics: dict[str, Any]
    loop_state: dict[str, Any]
    rng_states: list[dict[str, Any]]

    def put_into(self, checkpoint: dict[str, Any]) -> None:
        set_loop_state(checkpoint, self.loop_state)
        checkpoint |= {METRICS: self.metrics, RNG_STATES: self.rng_states}


class RunCheckpoint(Checkpoint):
    """Keeps the newest `step-*.ckpt`, from which a run resumes to the numbers of an uninterrupted one.

    A run that `trainer.should_stop` ends early saves its last step, too.

    A checkpoint lies between two rollout steps, after the step's evaluation if there is one. Lightning calls
    `Checkpoint` callbacks last, after all that a step changes; `setup` checks that. It saves neither rng
    states nor the current line of `metrics.jsonl`, which it writes later: both are added here, the rng states
    of all ranks.

    A failed save is a warning; `max_failures` in a row raise RunError, and NaN or infinity raises it at once.

    A run that ends by a termination signal or an error saves the last finished step, unless the weights have
    changed since. If the step's evaluation was interrupted, a resumed run repeats it.
    """

    def __init__(self, folder: Path, settings: Checkpoints, metrics_file: JSONLLogger) -> None:
        self.folder = folder
        self.settings = settings
        self.metrics_file = metrics_file
        self.io = AtomicCheckpointIO()
        self.failures = 0
        self.finished: FinishedStep | None = None
        self.loaded_rng_states: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises RuntimeError if another callback would change the step after it was saved."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        later = callbacks[callbacks.index(self) + 1 :]
        if names := [type(each).__name__ for each in later if not isinstance(each, Checkpoint)]:
            raise RuntimeError(f"RunCheckpoint must be called last, but {names} come after it")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        forget_interrupted_evaluation(trainer)
        states, self.loaded_rng_states = self.loaded_rng_states, []
        if len(states) == trainer.world_size:
            set_rng(states[trainer.global_rank], trainer.strategy.root_device)
        elif states:
            warnings.warn(
                f"the checkpoint has the rng states of {len(states)} ranks, this run has "
                f"{trainer.world_size}: it resumes with fresh ones, and its numbers will differ",
                stacklevel=2,
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self.finished = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rollout_step = batch_idx + 1
        if evaluated_after(rollout_step, trainer):
            self.note(trainer, rollout_step, before_evaluation=True)
        else:
            self.finish(trainer, rollout_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rollout_step = batches_begun(trainer)
        # Lightning evaluates once more where a run ends early; a resumed run has no such evaluation.
        if trainer.state.fn == TrainerFn.FITTING and evaluated_after(rollout_step, trainer):
            self.finish(trainer, rollout_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.finished and self.finished.rollout_step < trainer.num_training_batches:
            self.save(trainer, self.finished.rollout_step, ended=True)
        self.finished = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Saves on rank 0 without the other ranks, which may be anywhere or gone.

        Of sharded weights each rank saves its rows, if it has ended the same step; the last one makes the
        checkpoint whole. Where only a full one is wanted there is none.
        """
        step, self.finished = self.finished, None
        if step is None or not isinstance(exception, Stopped | SystemExit | Exception):
            return
        strategy, whole = trainer.strategy, True
        sharded = isinstance(strategy, ShardedStrategy)
        if not (strategy.distributed if sharded else trainer.is_global_zero):
            return
        file = checkpoint_file(self.folder, step.rollout_step)
        try:
            checkpoint = dump_checkpoint(trainer)
            step.put_into(checkpoint)
            if sharded:
                whole = self.io.save_own_part(checkpoint, file, ranks=trainer.world_size)
            else:
                self.io.save_checkpoint(checkpoint, file)
            if self.io.failure is not None:
                raise OSError(self.io.failure.reason)
            if whole:
                print(f"rollout step {step.rollout_step} is saved", flush=True)
                self.remove_outdated()
        except Exception as error:
            # Whatever it is, a lost device for one, it must not hide why the run ends.
            warnings.warn(
                f"rollout step {step.rollout_step} could not be saved ({type(error).__name__}: "
                f"{error}); the run can resume from the checkpoint before it",
                stacklevel=2,
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.finished is not None:
            self.finished.put_into(checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.loaded_rng_states = checkpoint[RNG_STATES]

    def note(self, trainer: Trainer, rollout_step: int, *, before_evaluation: bool = False) -> None:
        """Collective: gathers the rng states of all ranks."""
        metrics = {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in step_metrics(trainer).items()
        }
        line = self.metrics_file.row(metrics | {"epoch": trainer.current_epoch}, rollout_step - 1)
        self.finished = FinishedStep(
            rollout_step=rollout_step,
            metrics=line,
            loop_state=loop_state(trainer, before_evaluation=before_evaluation),
            rng_states=gather_objects(read_rng(trainer.strategy.root_device)),
        )

    def finish(self, trainer: Trainer, rollout_step: int) -> None:
        self.note(trainer, rollout_step)
        last = rollout_step >= trainer.num_training_batches
        if last or rollout_step % self.settings.every_n_steps == 0:
            self.save(trainer, rollout_step)

    def save(self, trainer: Trainer, rollout_step: int, *, ended: bool = False) -> None:
        """Collective. Raises RunError, on all ranks, when the run should not continue.

        A run whose training has `ended` continues to its model and report.
        """
        trainer.save_checkpoint(checkpoint_file(self.folder, rollout_step))
        failure = from_rank_zero(lambda: self.io.failure)
        step, self.finished = self.finished, None
        if failure is not None:
            self.failures += not ended
            self.report(failure, rollout_step, ended=ended, warn=trainer.is_global_zero)
            self.finished = step  # a stop tries again
            return
        self.failures = 0
        if trainer.is_global_zero:
            self.remove_outdated()

    def remove_outdated(self) -> None:
        newest_first = list(checkpoint_files(self.folder).values())
        for file in (*newest_first[self.settings.keep :], *self.folder.glob("*.abandoned")):
            self.io.remove_checkpoint(file)

    def report(self, failure: Failure, rollout_step: int, *, ended: bool, warn: bool) -> None:
        newest = next(iter(checkpoint_files(self.folder).values()), None)
        last = f"the newest is {newest.name}" if newest else "the run has none yet"
        if not failure.finite:
            raise RunError(
                f"the checkpoint of rollout step {rollout_step} contains NaN or infinity: {failure.reason}. "
                f"It was not written, {last}; lower optimizer.lr or objective.entropy.coefficient and resume "
                "with ckpt_path=last"
            )
        words = (
            f"the checkpoint of rollout step {rollout_step} was not written ({failure.reason}): it takes "
            f"{format_bytes(failure.needed)}, {format_bytes(failure.free)} are free in '{self.folder}'; "
            f"{last}"
        )
        if ended:
            if warn:
                warnings.warn(
                    f"{words}. The model is written all the same; a resume starts from the newest",
                    stacklevel=3,
                )
            return
        count = f"failure {self.failures} in a row"
        if self.failures >= self.settings.max_failures:
            raise RunError(
                f"{words}. That was {count}, as many as checkpoints.max_failures allows; free space and "
                "resume with ckpt_path=last"
            )
        if warn:
            warnings.warn(
                f"{words}. Free space there; training continues. This is {count}, number "
                f"{self.settings.max_failures} stops the run (checkpoints.max_failures)",
                stacklevel=2,
            )


def evaluated_after(rollout_step: int, trainer: Trainer) -> bool:
    """Whether held-out questions are due after the step: `evaluation.every_n_steps`."""
    return rollout_step % trainer.val_check_batch == 0  # type: ignore[operator]
