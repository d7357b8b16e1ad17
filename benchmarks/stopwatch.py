"""Seconds and peak memory between two points of somebody else's training loop."""

import time
from contextlib import ExitStack

import torch

from benchmarks.memory import peak_memory


class Stopwatch:
    def start(self) -> None:
        self.stack = ExitStack()
        self.peak = self.stack.enter_context(peak_memory())
        self.begin = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """`seconds`, and `peak_bytes` beyond what was in use at the start."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.begin
        self.stack.close()
        return {"seconds": seconds, "peak_bytes": self.peak[0]}
