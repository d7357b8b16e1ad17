"""Phases: where the seconds of a rollout step go, on the CPU by the clock, on a GPU by its events."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Phases:
    """Seconds per phase since the last `take`; phases of one name add up.

    On a GPU a phase is the time between two events of its stream: nothing waits for the device but
    `take`. Phases are named ranges in a profiler's trace.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with torch.profiler.record_function(f"ceeh/{name}"):
            if torch.cuda.is_initialized():
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                yield
                end.record()
                self._events.append((name, begin, end))
            else:
                started = time.perf_counter()
                yield
                self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Counts time that was measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds per phase so far, which begin anew."""
        if self._events:
            torch.cuda.synchronize()
        for name, begin, end in self._events:
            self.add(name, begin.elapsed_time(end) / 1000)
        seconds, self._seconds, self._events = self._seconds, {}, []
        return seconds
