"""Time and peak memory of a block of code. Imports nothing from ceeh: the references use it too."""

import ctypes
import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

MIB = 2**20
M_MMAP_THRESHOLD, LARGEST_THRESHOLD = -3, 32 * MIB
"""From glibc's malloc.h, and the value that the threshold reaches in any program with large tensors."""


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Yields `[bytes]`: the peak of the block above what was in use at its start.

    GPU: torch's allocations. CPU: resident memory by Linux' high-water mark, which is reset first. glibc
    returns free memory before the block, so that a second block does not reuse it unseen, and during
    the block maps each MiB or more separately, which it otherwise stops doing with each free.
    """
    peak = [0.0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - before
        return
    glibc = ctypes.CDLL(None)
    gc.collect()
    glibc.malloc_trim(0)
    glibc.mallopt(M_MMAP_THRESHOLD, MIB)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        yield peak
        peak[0] = _status("VmHWM") - before
    finally:
        glibc.mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field + ":"))
    return float(line.split()[1]) * 1024


class Stopwatch:
    """Seconds and peak memory between two points of another library's training loop."""

    def start(self) -> None:
        self.stack = ExitStack()
        self.peak = self.stack.enter_context(peak_memory())
        self.begin, self.spent = time.perf_counter(), time.process_time()

    def stop(self) -> dict[str, float]:
        """`seconds` of wall and of CPU time, `peak_bytes` beyond what the start found in use.

        CPU time shows what a busy machine did to the wall time.
        """
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds, spent = time.perf_counter() - self.begin, time.process_time() - self.spent
        self.stack.close()
        return {"seconds": seconds, "processor_seconds": spent, "peak_bytes": self.peak[0]}
