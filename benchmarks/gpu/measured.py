"""A measured number, and the clock of all parts."""

import time
from collections.abc import Callable
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
