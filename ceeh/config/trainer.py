"""`trainer:` in the configuration: what may be passed on to `lightning.Trainer`, and why the rest may not."""

import re
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from ceeh.errors import ConfigError

PASSED_ON = (
    "max_time",
    "profiler",
    "enable_progress_bar",
    "enable_model_summary",
    "detect_anomaly",
    "deterministic",
    "benchmark",
)
SET_ELSEWHERE = {
    "accelerator": "hardware.accelerator",
    "precision": "hardware.precision",
    "devices": "torchrun --nproc-per-node",
    "num_nodes": "torchrun --nnodes",
    "strategy": "hardware.strategy",
    "logger": "loggers",
    "callbacks": "callbacks",
    "default_root_dir": "output",
    "max_steps": "rollouts.steps",
    "max_epochs": "rollouts.steps",
    "limit_train_batches": "rollouts.steps",
    "limit_val_batches": "evaluation.questions",
    "fast_dev_run": "rollouts.steps=2 evaluation.questions=16 for a short run",
    "overfit_batches": "prompts.train with few questions",
    "val_check_interval": "evaluation.every_n_steps",
    "check_val_every_n_epoch": "evaluation.every_n_steps",
    "enable_checkpointing": "checkpoints.every_n_steps",
    "gradient_clip_val": "optimizer.max_grad_norm",
    "gradient_clip_algorithm": "optimizer.max_grad_norm",
    "accumulate_grad_batches": "optimizer.prompts_per_minibatch and optimizer.tokens_per_microbatch",
}


def check_trainer_arguments(arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError for an argument that contradicts the run, naming the setting to use.

    Also for a `max_time` that is no time: Lightning takes a negative one, and ends the run after a step.
    """
    given = arguments.get("max_time")
    if given is not None and duration(given) <= timedelta(0):
        raise ConfigError(
            "trainer.max_time must be DD:HH:MM:SS or a mapping of weeks, days, hours, minutes and seconds, "
            f"such as {{hours: 12}}, more than 0 in all, got {given!r}"
        )
    for name in arguments:
        if name in PASSED_ON:
            continue
        if name in SET_ELSEWHERE:
            raise ConfigError(f"trainer.{name} is not passed on; use {SET_ELSEWHERE[name]}")
        near = get_close_matches(name, [*PASSED_ON, *SET_ELSEWHERE], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"trainer.{name} is not passed on to lightning.Trainer{hint} (passed on: "
            f"{', '.join(PASSED_ON)})"
        )


def duration(given: Any) -> timedelta:
    """The time that `given` means to Lightning, and that config.yaml can hold; 0 if it means none."""
    if isinstance(given, str) and re.fullmatch(r"\d+(:\d\d){3}", given):
        names = ("days", "hours", "minutes", "seconds")
        given = dict(zip(names, map(int, given.split(":")), strict=True))
    try:
        return timedelta(**given) if isinstance(given, Mapping) else timedelta(0)
    except (TypeError, ValueError, OverflowError):
        return timedelta(0)
