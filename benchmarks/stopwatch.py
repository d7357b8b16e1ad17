"""Seconds and peak memory between two points of somebody else's training loop."""

import time
from contextlib import ExitStack

import torch

from benchmarks.memory import peak_memory


class Stopwatch:
    def start(self) -> None:
        self.stack = ExitStack()
        self.peak = self.stack.enter_context(peak_memory())
        self.begin, self.spent = time.perf_counter(), time.process_time()

    def stop(self) -> dict[str, float]:
        """`seconds` by the clock and of processor time, `peak_bytes` beyond what the start found in use.

        Processor time tells what a busy machine did to the clock.
        """
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds, spent = time.perf_counter() - self.begin, time.process_time() - self.spent
        self.stack.close()
        return {"seconds": seconds, "processor_seconds": spent, "peak_bytes": self.peak[0]}
