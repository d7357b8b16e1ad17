"""The processes of a run, one per device as torchrun or srun starts them, and their collectives."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[reportPrivateImportUsage]

from ceeh.errors import ConfigError, RunError, first_line
from ceeh.runtime import shutdown
from ceeh.runtime.text import escape

T = TypeVar("T")

_collective_timeout = timedelta(minutes=360)
STOP_CALLS = 8


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


def join_processes(
    accelerator: str, *, join_minutes: float = 10, collective_minutes: float = 360
) -> None:
    """Opens the process group, before anything is written or an engine is built in it.

    Raises RunError when the other processes cannot be reached within `join_minutes`. A collective waits
    `collective_minutes`: generation of long responses differs between ranks by more than torch's ten.
    """
    if world_size() == 1 or dist.is_initialized():
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agent = (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    )  # torchrun serves the store itself
    try:
        socket.getaddrinfo(address, port)
        store = TCPStore(
            address,
            port,
            world_size=None if agent else world_size(),
            is_master=rank() == 0 and not agent,
            timeout=timedelta(minutes=join_minutes),
        )
    except (OSError, RuntimeError) as error:  # torch's own errors are RuntimeErrors
        raise RunError(
            f"rank {rank()} of {world_size()} cannot meet the other processes at {address}:{port} within "
            f"{join_minutes:g} minutes ({first_line(error)}); check that every process was started, that "
            "the address resolves on this machine and that no firewall blocks the port"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    global _collective_timeout
    _collective_timeout = timedelta(minutes=collective_minutes)
    options: dict[str, Any] = {"timeout": _collective_timeout}
    backend = "gloo"
    if accelerator == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        # With `device_id` NCCL does not guess the device at the first collective.
        backend, options["device_id"] = "cpu:gloo,cuda:nccl", device
    dist.init_process_group(
        backend,
        store=PrefixStore(f"ceeh/attempt_{attempt}", store),
        rank=rank(),
        world_size=world_size(),
        **options,
    )


@dataclass(frozen=True, slots=True)
class TensorParallelGroup:
    """The ranks that share this rank's engine: n k to n k + n - 1; this one alone if n is 1.

    Their collectives are their own, on the CPU, beside those of all ranks. Building one is collective over
    all ranks, whose number n divides.
    """

    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, size: int) -> "TensorParallelGroup":
        if size == 1:
            return cls(None)
        group, _ = dist.new_subgroups(size, timeout=_collective_timeout, backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        return cls(group)

    @property
    def index(self) -> int:
        """This rank's place in the group."""
        return 0 if self.group is None else dist.get_rank(self.group)

    def gather(self, value: T) -> list[T]:
        """`value` of each rank of the group, in rank order. Collective."""
        if self.group is None:
            return [value]
        gathered: list[Any] = [None] * self.group.size()
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def check_stop(self, *, at: int) -> None:
        """`shutdown.check`, by which the ranks stop at the same call: others would wait for one that left.

        Collective, in the first and every STOP_CALLS-th of the calls that `at` numbers from 0: agreeing
        takes some tenths of a millisecond.
        """
        if self.group is None:
            return shutdown.check()
        if at % STOP_CALLS:
            return
        wanted = torch.tensor(shutdown.due() or 0)
        dist.all_reduce(wanted, dist.ReduceOp.MAX, group=self.group)
        if wanted:
            if shutdown.due() is None:  # rank 0 leaves first, see `shutdown.due`
                time.sleep(shutdown.HEAD_START_SECONDS)
            raise shutdown.Stopped(int(wanted))

    def close(self) -> None:
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group(self.group)


def check_group_size(size: Any, *, processes: int, here: int, setting: str) -> None:
    """Raises ConfigError unless `size` of all `processes`, `here` on each machine, can share an engine."""
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"{setting} must be a whole number, at least 1, got {size}")
    if processes % size:
        raise ConfigError(
            f"{setting} is {size}, but the number of processes, {processes}, is not a multiple of it; "
            f"start a multiple of {size} with torchrun, one per device, or set another number"
        )
    if here % size:
        raise ConfigError(
            f"{setting} is {size}, but each machine has {here} processes, which is not a multiple of it; "
            "ranks that share an engine must be on one machine: start a multiple on each, or set another "
            "number"
        )


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
        if (number := shutdown.requested()) is not None:
            raise shutdown.Stopped(number) from error  # the other one was faster
        raise RunError(
            f"process {rank()} of {world_size()} has lost another one, whose own error tells why "
            f"({first_line(error)}); resume with ckpt_path=last"
        ) from error


def gather_objects(value: T) -> list[T]:
    """`value` of every process of the run, in rank order. Collective."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered
