"""What callbacks exchange between ranks."""

from typing import Any

import torch.distributed as dist
from lightning import Trainer


def gather_objects(trainer: Trainer, value: Any) -> list[Any]:
    """`value` of every rank, in rank order. Collective: every rank must call it."""
    if trainer.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(gathered, value)
    return gathered
