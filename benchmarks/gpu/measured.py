"""A measured number, the clock of all parts, and the GPU's memory."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from benchmarks.harness import synchronize

Row = dict[str, Any]
"""What was measured: `what`, `value`, `unit`, and `of` for a second number to compare with."""

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
BF16 = torch.bfloat16


def row(what: str, value: float, unit: str, of: str = "") -> Row:
    return {"what": what, "value": value, "unit": unit, "of": of}


@contextmanager
def memory_in_use() -> Iterator[list[int]]:
    """Yields `[bytes]`: the most of the GPU in use inside, of ten looks a second; 0 where it cannot be read.

    By NVML: torch's own peak would count what vLLM's pool holds while it sleeps, and a call of CUDA from this
    thread could break the capture of a graph.
    """
    peak, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], torch.cuda.device_memory_used())

    thread = threading.Thread(target=look, daemon=True)
    if CUDA:
        thread.start()
    try:
        yield peak
    finally:
        ended.set()
        if CUDA:
            thread.join()


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median of `repeats` calls after one that compiles and warms up, the device's work included."""
    found = []
    for _ in range(repeats + 1):
        synchronize()
        begin = time.perf_counter()
        call()
        synchronize()
        found.append(time.perf_counter() - begin)
    return median(found[1:])
