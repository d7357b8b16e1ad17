"""The processes of a run, one per device as torchrun starts them, and what they agree on."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning import Trainer

from ceeh.errors import ConfigError, RunError
from ceeh.runtime.text import plain

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long a process waits for another: generation of long responses differs by more than the
default ten minutes."""


def world_size() -> int:
    """Processes of this run: what torchrun says, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def is_rank_zero() -> bool:
    return rank() == 0


def say(line: str) -> None:
    """Prints `line` once, on rank 0, without what a terminal would act on."""
    if is_rank_zero():
        print(plain(line), flush=True)


def join_processes(accelerator: str) -> None:
    """Opens the process group, before anything is written or an engine built in it."""
    if world_size() == 1 or dist.is_initialized():
        return
    if accelerator != "cuda":
        dist.init_process_group("gloo", timeout=PATIENCE)
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    # The device named here, NCCL need not guess it at the first collective.
    dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE, device_id=device)


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def from_rank_zero(decide: Callable[[], T]) -> T:
    """What `decide` returns on rank 0, on every rank. Collective; ConfigError and RunError reach all."""
    box: list[Any] = [None, None]
    if is_rank_zero():
        try:
            box[0] = decide()
        except (ConfigError, RunError) as error:
            box[1] = error
    if world_size() > 1:
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def gather_objects(trainer: Trainer, value: Any) -> list[Any]:
    """`value` of every rank, in rank order. Collective: every rank must call it."""
    if trainer.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(gathered, value)
    return gathered
