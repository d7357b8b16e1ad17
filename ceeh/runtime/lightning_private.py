"""The private parts of Lightning that ceeh needs; the tests of this file fail when Lightning moves them."""

from typing import Any

from lightning import Trainer


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
