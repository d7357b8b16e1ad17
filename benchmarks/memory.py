"""Measures the peak memory of a block of code. Imports nothing from ceeh: the references use it too."""

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MIB = 2**20
M_MMAP_THRESHOLD, LARGEST_THRESHOLD = -3, 32 * MIB
"""From glibc's malloc.h, and the value that the threshold reaches in any program with large tensors."""


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Yields `[bytes]`: the peak of the block above what was in use at its start.

    GPU: torch's allocations. CPU: resident memory by the kernel's high-water mark, which is reset
    first; where that is not allowed, by samples every millisecond. The C library returns free memory
    before the block, so that a second block does not reuse it unseen, and at once during the block.
    """
    peak = [0.0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - before
        return
    release_free_memory()
    with _released_at_once():
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            with _sampled(peak):
                yield peak
            return
        before = _status("VmRSS")
        yield peak
        peak[0] = _status("VmHWM") - before


@contextmanager
def _released_at_once() -> Iterator[None]:
    """Maps each block of a MiB or more separately; glibc's threshold would otherwise grow with each free."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    set_option(M_MMAP_THRESHOLD, MIB)
    try:
        yield
    finally:
        set_option(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)


def release_free_memory() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


@contextmanager
def _sampled(peak: list[float]) -> Iterator[None]:
    before, ended = _status("VmRSS"), threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            peak[0] = max(peak[0], _status("VmRSS") - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}; the benchmarks need Linux")
