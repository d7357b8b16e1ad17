"""Optimiser steps, and learning-rate schedules: a factor of `optimizer.lr` per optimiser step."""

import math
from collections.abc import Callable

from ceeh.config import Config


def optimizer_steps(config: Config) -> int:
    """Optimiser steps of one rollout step, whatever the number of ranks."""
    return math.ceil(config.rollouts.prompts_per_step / config.optimizer.prompts_per_minibatch)


def learning_rate_scale(schedule: str, *, warmup: int, total: int) -> Callable[[int], float]:
    """Linear warm-up over `warmup` steps, then constant, or linear or cosine to zero at `total`."""

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return {
            "constant": 1.0,
            "linear": 1 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
        }[schedule]

    return scale
