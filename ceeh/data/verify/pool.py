"""Worker processes that grade answers. A late or dead one is replaced and costs one answer.

Workers start from a script: a multiprocessing child would import the trainer's main module, torch too.
"""

import json
import math
import os
import pickle
import shlex
import signal
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ceeh.data.verify.task_queue import Task, TaskQueue
from ceeh.data.verify.worker_handle import Worker
from ceeh.errors import ConfigError, RunError
from ceeh.runtime import shutdown
from ceeh.types import GradingOutcome, Verdict

SCRIPT = Path(__file__).with_name("worker.py")
START_SECONDS = 120.0
WALL_FACTOR = 10
FREE_FRACTION = 0.1
MAX_FAILED_STARTS = 3
POLL_SECONDS = 0.5


def check_limits(
    workers: int, memory_mib: int | None, min_memory_mib: int, **seconds: float
) -> None:
    """Raises ConfigError for a limit out of range. `timeout=5` stands for timeout_seconds."""
    for name, value in seconds.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}_seconds must be greater than 0, got {value}")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if memory_mib is not None and memory_mib < min_memory_mib:
        raise ConfigError(
            f"memory_mib must be at least {min_memory_mib} for a worker to start, got {memory_mib}"
        )


@dataclass(kw_only=True)
class WorkerPool:
    """At most `size` processes of `memory_mib` each (None: no limit), started when first needed.

    `grader` is a file that only the workers import. Its `build(**arguments)` returns a function of a
    task that returns [outcome, score or description]. The worker itself enforces `timeout_seconds` of
    CPU time per answer; the pool kills one that has not replied after `wall_factor` times as long in
    wall time. Up to `max_chunk` tasks are sent at once, fewer toward the end, which is faster where an
    answer takes less than a millisecond. `question` maps a task to the question it belongs to.
    Workers that cannot start raise `start_error`. `faults` are those of the last call (`TaskQueue`).
    """

    grader: Path
    arguments: Mapping[str, Any]
    size: int
    timeout_seconds: float
    memory_mib: int | None
    wall_factor: float = WALL_FACTOR
    start_seconds: float = START_SECONDS
    max_chunk: int = 1
    question: Callable[[Task], Hashable] = lambda task: task[0]
    start_error: Callable[[str], Exception] = RunError

    def __post_init__(self) -> None:
        self.workers: list[Worker] = []
        self.faults: dict[GradingOutcome, tuple[int, str]] = {}
        self._failed_starts = 0
        self._stalled = 0.0

    @property
    def command(self) -> list[str]:
        # A path works from any folder; with -P no file next to it hides a library.
        settings = {
            "grader": str(self.grader),
            "arguments": self.arguments,
            "timeout_seconds": self.timeout_seconds,
            "memory_mib": self.memory_mib,
            "parent": os.getpid(),
        }
        return [sys.executable, "-P", str(SCRIPT), json.dumps(settings)]

    @property
    def wall_seconds(self) -> float:
        return self.wall_factor * self.timeout_seconds

    def check(self) -> None:
        """Returns once a worker has started. Raises as `grade` does."""
        queue = TaskQueue([], self.question)
        try:
            while not any(worker.started for worker in self.workers):
                shutdown.check()
                if not self.workers:
                    self._start()
                self._listen(queue)
        except BaseException:
            self.close()
            raise

    def grade(self, tasks: Sequence[Task], stall_seconds: float = math.inf) -> list[Verdict]:
        """A verdict per task, in order.

        The wall time of an answer beyond FREE_FRACTION of its limit counts as a stall, and so does the
        start of a worker that replaces one it ended. Once the stalls reach `stall_seconds` per worker,
        all open tasks time out. Raises ConfigError if the grader cannot be built and `start_error` if
        workers end before they are ready.
        """
        queue = TaskQueue(tasks, self.question)
        self._stalled = 0.0
        try:
            while queue.num_open:
                shutdown.check()
                stalled = self._stalled + sum(map(self._stalled_by, self.workers))
                if stalled >= stall_seconds * self.size:
                    for worker in [w for w in self.workers if w.tasks]:
                        self._drop(worker)
                    queue.time_out(f"the call spent its {stall_seconds:g} s on slow answers")
                    break
                while len(self.workers) < min(self.size, queue.num_open):
                    self._start()
                for worker in [w for w in self.workers if w.started and not w.tasks]:
                    if queue.num_waiting:
                        self._send(worker, queue)
                self._listen(queue)
        except BaseException:
            self.close()  # busy workers would reply to the next call
            raise
        self.faults = queue.faults
        return [queue.verdicts[task] for task in range(len(tasks))]

    def close(self) -> None:
        """Kills the workers. Harmless when called twice; a later call starts new ones."""
        while self.workers:
            self.workers.pop().kill()
        self._failed_starts = 0

    def _start(self, *, replaces: bool = False) -> None:
        self.workers.append(Worker(self.command, self.start_seconds, replaces=replaces))

    def _drop(self, worker: Worker) -> int:
        self.workers.remove(worker)
        return worker.kill()

    def _retire(self, worker: Worker, queue: TaskQueue) -> None:
        """Ends a worker that has not begun its tasks."""
        queue.put_back(worker.tasks)
        self._drop(worker)

    def _stalled_by(self, worker: Worker) -> float:
        """Seconds that the worker has stalled with its present task."""
        free = FREE_FRACTION * self.timeout_seconds
        return max(0.0, time.monotonic() - worker.since - free) if worker.tasks else 0.0

    def _send(self, worker: Worker, queue: TaskQueue) -> None:
        count = max(1, min(self.max_chunk, queue.num_waiting // (2 * self.size)))
        worker.tasks.extend(queue.next() for _ in range(count))
        if worker.send(pickle.dumps([queue.tasks[task] for task in worker.tasks])):
            worker.expect(self.wall_seconds)
        else:
            self._retire(worker, queue)

    def _listen(self, queue: TaskQueue) -> None:
        """Handles the next messages and ends late workers."""
        busy = {w.stdout.fileno(): w for w in self.workers if w.tasks or not w.started}
        patience = min((w.deadline for w in busy.values()), default=0.0) - time.monotonic()
        # Briefly, to check the stall and a requested stop again.
        for pipe in wait(busy, max(0.0, min(patience, self.timeout_seconds, POLL_SECONDS))):
            assert isinstance(pipe, int)
            self._receive(busy[pipe], queue)
        now = time.monotonic()
        for worker in self.workers.copy():
            if (worker.tasks or not worker.started) and worker.deadline <= now:
                words = f"no verdict after {self.wall_seconds:g} s of wall time"
                self._end(worker, GradingOutcome.TIMEOUT, words, queue)

    def _receive(self, worker: Worker, queue: TaskQueue) -> None:
        messages = worker.receive()
        if messages is None:
            self._end(worker, GradingOutcome.DIED, "", queue)
            return
        for kind, *details in messages:
            match kind:
                case "ready":
                    if worker.replaces:
                        self._stalled += time.monotonic() - worker.since
                    worker.started = True
                    self._failed_starts = 0
                case "full":
                    self._retire(worker, queue)
                case "broken":
                    raise ConfigError(details[0])
                case _:
                    self._settle(worker, GradingOutcome(kind), details[0], queue)

    def _settle(
        self, worker: Worker, outcome: GradingOutcome, result: Any, queue: TaskQueue
    ) -> None:
        """Settles the first of the worker's tasks and counts the time it took."""
        if (stalled := self._stalled_by(worker)) > 0:
            self._stalled += stalled
            queue.slow.add(queue.questions[worker.tasks[0]])
        queue.settle(worker.tasks.popleft(), outcome, result)
        worker.expect(self.wall_seconds)

    def _end(self, worker: Worker, outcome: GradingOutcome, words: str, queue: TaskQueue) -> None:
        """Kills a dead or late worker. Its first task is to blame; the others are sent again."""
        status = self._drop(worker)
        if worker.started:
            if outcome is GradingOutcome.DIED and status == -signal.SIGPROF:
                outcome = GradingOutcome.TIMEOUT
                words = f"more than {self.timeout_seconds:g} s of CPU time"
            elif outcome is GradingOutcome.DIED:
                ending = signal.Signals(-status).name if status < 0 else f"exit status {status}"
                words = f"its process ended with {ending}"
            self._settle(worker, outcome, words, queue)
            queue.put_back(worker.tasks)
            if queue.num_open > len(self.workers):
                self._start(replaces=True)
            return
        self._failed_starts += 1
        late = outcome is GradingOutcome.TIMEOUT
        if late or self._failed_starts == MAX_FAILED_STARTS:
            count, limit = self._failed_starts, f" after {self.start_seconds:g} s" if late else ""
            raise self.start_error(
                f"{count} verification worker{'s' if count > 1 else ''} ended before they were"
                f" ready{limit}; run '{shlex.join(self.command)}' to see why"
            )
