"""The processes of a run, one per device as torchrun starts them, and their collectives."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning import Trainer

from ceeh.errors import ConfigError, RunError, first_line
from ceeh.runtime.text import escape

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""Timeout of collectives. Generation of long responses differs between ranks by more than the default
ten minutes."""


def world_size() -> int:
    """Number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """Number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def is_rank_zero() -> bool:
    return rank() == 0


def say(line: str) -> None:
    """Prints `line` on rank 0, with control characters escaped."""
    if is_rank_zero():
        print(escape(line), flush=True)


def join_processes(accelerator: str) -> None:
    """Opens the process group, before anything is written or an engine is built in it."""
    if world_size() == 1 or dist.is_initialized():
        return
    if accelerator != "cuda":
        dist.init_process_group("gloo", timeout=PATIENCE)
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    # With `device_id` NCCL does not guess the device at the first collective.
    dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE, device_id=device)


def wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier()


def from_rank_zero(decide: Callable[[], T]) -> T:
    """What `decide` returns on rank 0, on every rank. Collective.

    A ConfigError or RunError of rank 0 is raised on every rank.
    """
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


@contextmanager
def other_processes_watched() -> Iterator[None]:
    """Inside, a collective that fails because another process is gone is a RunError.

    That process says why it ended.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        if world_size() == 1 or not lost:
            raise
        raise RunError(
            f"process {rank()} of {world_size()} has lost another one, whose own error tells why "
            f"({first_line(error)}); resume with ckpt_path=last"
        ) from error


def gather_objects(trainer: Trainer, value: Any) -> list[Any]:
    """`value` of every rank, in rank order. Collective."""
    if trainer.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(gathered, value)
    return gathered
