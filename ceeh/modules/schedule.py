"""The optimizer, its steps and learning-rate schedules: a factor of `optimizer.lr` per optimizer step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ceeh.config.settings import Config, Optimizer


def updates_per_rollout_step(config: Config) -> int:
    """Optimizer steps of one rollout step, whatever the number of ranks."""
    return math.ceil(config.rollouts.prompts_per_step / config.optimizer.prompts_per_minibatch)


def build_optimizer(
    settings: Optimizer, parameters: Sequence[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """AdamW; its moments are fp32, or 8 bits with bitsandbytes."""
    if settings.moments == "8bit":
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]  # an extra

        optimizer = AdamW8bit(parameters)
    else:
        # One kernel for all weights on a GPU; on the CPU it would change the order of rounding.
        optimizer = AdamW(parameters, fused=device.type == "cuda" or None)
    set_hyperparameters(optimizer, settings)
    return optimizer


def set_hyperparameters(
    optimizer: Any, settings: Optimizer, schedule: LambdaLR | None = None
) -> None:
    """Sets learning rate, betas and decay; with `schedule` the rate of its current step."""
    scale = 1.0
    if schedule is not None:
        schedule.base_lrs = [settings.lr] * len(optimizer.param_groups)
        scale = schedule.lr_lambdas[0](schedule.last_epoch)
    for group in optimizer.param_groups:
        group["lr"], group["initial_lr"] = settings.lr * scale, settings.lr
        group["betas"] = (settings.beta1, settings.beta2)
        group["weight_decay"] = settings.weight_decay


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
