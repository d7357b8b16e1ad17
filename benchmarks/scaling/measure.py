"""Bytes that two ranks of a small sharded model exchange, counted beside those that are predicted."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from transformers import Qwen2ForCausalLM

from benchmarks.workload import random_config
from ceeh.memory.shapes import FP32


def loopback_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.split()[0] == "lo:")


@dataclass(frozen=True)
class Traffic:
    """Of one optimizer step over all ranks: bytes that were predicted and counted, and seconds."""

    predicted: float
    counted: float
    seconds: float


Kinds = Sequence[tuple[int, bool]]
"""Micro-batches of an optimizer step, and whether each of them reduces its gradients."""


def shard_and_step(rank: int, port: int, kinds: Kinds, found: "mp.SimpleQueue") -> None:
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    model: Any = Qwen2ForCausalLM(random_config("balanced"))
    size = FP32 * sum(weight.numel() for weight in model.parameters())
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    ids = torch.randint(2, 2048, (2, 16))

    def step(micro: int, every: bool) -> None:
        for index in range(micro):
            model.set_requires_gradient_sync(every or index == micro - 1)
            model(input_ids=ids).logits.sum().backward()
        model.zero_grad()

    step(1, True)
    for micro, every in kinds:
        dist.barrier()
        before, begin = loopback_bytes(), time.perf_counter()
        step(micro, every)
        dist.barrier()
        counted, seconds = loopback_bytes() - before, time.perf_counter() - begin
        if rank == 0:
            # Each rank receives the other's half: n (n - 1) / n of the whole over both. gloo scatters a
            # reduction by reducing everything on every rank, which moves twice as much.
            predicted = size * (2 * micro + 2 * (micro if every else 1))
            found.put(Traffic(predicted, counted, seconds))
    dist.barrier()
    dist.destroy_process_group()


def measure(kinds: Kinds) -> list[Traffic]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = mp.get_context("spawn").SimpleQueue()
    spawn(shard_and_step, args=(port, kinds, found), nprocs=2)
    return [found.get() for _ in kinds]
