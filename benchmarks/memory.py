"""How much memory a block of code needs at most. Imports nothing of ceeh: the references use it too."""

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MIB = 2**20
M_MMAP_THRESHOLD, LARGEST_THRESHOLD = -3, 32 * MIB
"""Of glibc's malloc.h, and what the threshold has grown to in any program with large tensors."""


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Bytes that the block needed at most beyond what was in use when it began, as `[bytes]`.

    On a GPU what torch allocated. On the CPU the resident memory as the kernel counts it, with its
    high-water mark set back first; where that is not allowed it is sampled every millisecond. Memory
    that the C library holds free is given back before, or a second block would seem to need none, and
    at once during the block: it would keep a hundred MiB of its own choice.
    """
    peak = [0.0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - before
        return
    give_back_free_memory()
    with _given_back_at_once():
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
def _given_back_at_once() -> Iterator[None]:
    """Blocks of a MiB and more are mapped one by one: glibc's threshold else grows with what is freed."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    set_option(M_MMAP_THRESHOLD, MIB)
    try:
        yield
    finally:
        set_option(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)


def give_back_free_memory() -> None:
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
