"""What ceeh needs of Lightning's private parts and loop states; its tests fail when Lightning moves them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import Trainer

PROGRESS = "epoch_loop.batch_progress"
EVALUATION_PROGRESS = "epoch_loop.val_loop.batch_progress"


def step_metrics(trainer: Trainer) -> dict[str, Any]:
    """What has been logged in the current step; `trainer.logged_metrics` keeps older steps' metrics too."""
    return dict(trainer._logger_connector.metrics["log"])


def dump_checkpoint(trainer: Trainer) -> dict[str, Any]:
    """A checkpoint's content; `trainer.save_checkpoint` also waits for ranks that may be gone."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def disable_signal_handlers(trainer: Trainer) -> None:
    """Leaves termination signals to `ceeh.runtime.shutdown`.

    Lightning's handlers wait for the end of a step, communicate within a signal and exit with status 0.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None


def loop_state(trainer: Trainer, *, before_evaluation: bool = False) -> dict[str, Any]:
    """The state from which Lightning continues with the next step, or with this step's evaluation.

    An evaluation is continued, not skipped, when its first batch has begun.
    """
    loop = trainer.fit_loop.epoch_loop
    state = trainer.fit_loop.state_dict()
    if before_evaluation:
        step, evaluation = copy.deepcopy((loop.batch_progress, loop.val_loop.batch_progress))
        step.increment_completed()
        evaluation.reset_on_run()
        evaluation.increment_ready()
        evaluation.increment_started()
        state |= {PROGRESS: step.state_dict(), EVALUATION_PROGRESS: evaluation.state_dict()}
    return copy.deepcopy(state)


def set_loop_state(checkpoint: dict[str, Any], state: dict[str, Any]) -> None:
    checkpoint["loops"]["fit_loop"] = state


def set_last_step(checkpoint: dict[str, Any], last: bool) -> None:
    """Whether the checkpoint's step is the last; not so if the run is to be longer than before."""
    checkpoint["loops"]["fit_loop"][PROGRESS]["is_last_batch"] = last


def loader_states(checkpoint: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The states of the training loaders; none in a checkpoint of before the first step."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    return loop.get("state_dict", {}).get("combined_loader", ())


def forget_interrupted_evaluation(trainer: Trainer) -> None:
    """After a resume; Lightning would count the batch that was interrupted twice."""
    evaluation = trainer.fit_loop.epoch_loop.val_loop
    if evaluation.restarted_mid_evaluation:
        evaluation.batch_progress.total.reset_on_restart()


def batches_begun(trainer: Trainer) -> int:
    """Training batches up to the present one."""
    return trainer.fit_loop.batch_idx + 1
