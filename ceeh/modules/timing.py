"""StepClock: where the time of a rollout step goes.

A step consists of the rollouts (`generate`, `score`, `waiting` for the rollouts of the slowest rank,
`collate`, `probe`), the callbacks that read, the update (`old_logprobs`: a forward pass
before it, for `objective.old_logprobs=trainer` or an entropy bonus on some tokens; `forward`, `backward`,
`optimizer`), `push`, and the callbacks that observe, log and save. `idle` is the rest: the trainer's own
loop and waiting for other ranks elsewhere. Moving the batch to the device counts as `callbacks`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ceeh.data.batch import RolloutBatch
from ceeh.data.examples import ExampleBatch

TimedBatch = RolloutBatch | ExampleBatch
UPDATE = ("forward", "backward", "optimizer")


class StepClock:
    """Seconds per phase since `start`; several phases of one name add up.

    On a GPU a phase is the time between two events of its stream, and only `take` waits for the
    device. Phases are named ranges in a profiler's trace.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Starts the next step."""
        self.began = self.update_at = self.updated_at = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
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
        """Seconds per phase since `start` or the last `take`."""
        if self._events:
            torch.cuda.synchronize()
        for name, begin, end in self._events:
            self.add(name, begin.elapsed_time(end) / 1000)
        seconds, self._seconds, self._events = self._seconds, {}, []
        return seconds

    def update_begins(self) -> None:
        self.update_at = time.perf_counter()

    def update_ends(self) -> float:
        """Seconds of the update."""
        self.updated_at = time.perf_counter()
        return self.updated_at - self.update_at

    def step_ends(self, batch: TimedBatch, response_tokens: float) -> dict[str, float]:
        """The step's `time/` metrics in seconds, and tokens per second; the next step starts.

        `time/tokens_per_second` counts the tokens of all ranks' trained responses over the whole step;
        `optimizer/tokens_per_second` this rank's prompt and response tokens over the phases in UPDATE.
        """
        seconds = self.take()
        now = time.perf_counter()
        push = seconds.get("push", 0.0)
        seconds["callbacks"] = self.update_at - batch.ready_at + now - self.updated_at - push
        rollouts = sum(batch.timings.values())
        step = now - self.began
        seconds["idle"] = max(0.0, step - rollouts - sum(seconds.values()))
        update = sum(seconds.get(name, 0.0) for name in UPDATE)
        self.start()
        return {f"time/{name}": value for name, value in seconds.items()} | {
            "time/step": step,
            "time/tokens_per_second": response_tokens / step,
            "optimizer/tokens_per_second": int(batch.totals.sum()) / update,
        }
