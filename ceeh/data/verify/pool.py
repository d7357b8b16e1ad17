"""Worker processes that judge answers, each killed and replaced when late or dead."""

import json
import math
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ceeh.errors import ConfigError
from ceeh.runtime import shutdown
from ceeh.types import Outcome, Verdict

RIGHT = Verdict(score=1.0, outcome=Outcome.OK)
WRONG = Verdict(score=0.0, outcome=Outcome.OK)
UNREADABLE = Verdict(score=0.0, outcome=Outcome.UNREADABLE)


class Tasks:
    """A task is known by its index. Questions take turns; those that had a slow answer come last.

    `faults` has the first task that failed in each way, first by its index, and what was said of it.
    """

    def __init__(
        self, tasks: Sequence[tuple[Any, ...]], question: Callable[[tuple[Any, ...]], Hashable]
    ) -> None:
        self.tasks = tasks
        self.questions = [question(task) for task in tasks]
        self.verdicts: dict[int, Verdict] = {}
        self.faults: dict[Outcome, tuple[int, str]] = {}
        self.slow: set[Hashable] = set()
        seen: Counter[Hashable] = Counter()
        turns = []
        for key in self.questions:
            turns.append(seen[key])
            seen[key] += 1
        self.waiting = deque(sorted(range(len(tasks)), key=turns.__getitem__))
        self.postponed: deque[int] = deque()

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + len(self.postponed)

    @property
    def num_open(self) -> int:
        return len(self.tasks) - len(self.verdicts)

    def next(self) -> int:
        while self.waiting and self.questions[self.waiting[0]] in self.slow:
            self.postponed.append(self.waiting.popleft())
        return (self.waiting or self.postponed).popleft()

    def put_back(self, tasks: Sequence[int]) -> None:
        self.waiting.extendleft(reversed(tasks))

    def settle(self, task: int, outcome: Outcome, said: Any) -> None:
        """`said` is the score of one that is OK, and else words."""
        if outcome is Outcome.OK:
            score = float(said)
            fixed = RIGHT if score == 1 else WRONG if score == 0 else None
            self.verdicts[task] = fixed or Verdict(score=score, outcome=outcome)
            return
        self.verdicts[task] = Verdict(score=0.0, outcome=outcome)
        if task < self.faults.get(outcome, (len(self.tasks), ""))[0]:
            self.faults[outcome] = (task, str(said))

    def give_up(self, words: str) -> None:
        while self.num_waiting:
            self.settle(self.next(), Outcome.TIMEOUT, words)


SCRIPT = Path(__file__).with_name("worker.py")
START_SECONDS = 120.0
WALL_FACTOR = 10
FREE_FRACTION = 0.1
MAX_FAILED_STARTS = 3


class Worker:
    """One process and the tasks it has; `deadline` and `since` are monotonic times in seconds.

    The process leads a session of its own, so that what it starts ends with it.
    """

    def __init__(self, command: Sequence[str], start_seconds: float, *, replaces: bool) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self.tasks: deque[int] = deque()
        self.started = self.ready = self.leaving = False
        self.replaces = replaces
        self.since = time.monotonic()
        self.deadline = self.since + start_seconds
        self._heard = b""

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, numbers: Sequence[int], content: bytes, wall_seconds: float) -> bool:
        """Hands tasks over; False when the process is gone and the tasks are still to be done."""
        assert self.process.stdin is not None
        self.ready = False
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(self.process.stdin.fileno(), left) :]
        except BrokenPipeError:
            return False
        self.tasks.extend(numbers)
        self.since = time.monotonic()
        self.deadline = self.since + wall_seconds
        return True

    def hear(self) -> list[list[Any]] | None:
        """The messages that are there; None when there will be no more."""
        heard = os.read(self.fileno(), 2**16)
        if not heard:
            return None
        *lines, self._heard = (self._heard + heard).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> int:
        """Ends the process and all of its session; the status it had ended with, if it had."""
        # Before the wait, which frees the number. A process that ended keeps the status it has.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        return status


class WorkerPool:
    """At most `workers` processes of `memory_mib` each (None: no limit), started when first needed.

    `judge` is a file whose `build(**arguments)` makes the function that is called with a task and
    answers [outcome, score or words]; it is run in the workers alone. `timeout_seconds` per answer are
    processor time, kept by the worker itself; one that has not replied after `wall_factor` times as
    long by the clock is killed from here. `max_chunk` tasks are handed over at a time, fewer toward
    the end: that saves time where an answer takes less than a millisecond.
    `question` tells which tasks belong together. `faults` are those of the last call, as in `Tasks`.
    """

    def __init__(
        self,
        judge: Path,
        arguments: Mapping[str, Any],
        *,
        workers: int,
        timeout_seconds: float,
        memory_mib: int | None,
        wall_factor: float = WALL_FACTOR,
        start_seconds: float = START_SECONDS,
        max_chunk: int = 1,
        question: Callable[[tuple[Any, ...]], Hashable] = lambda task: task[0],
    ) -> None:
        self.size = workers
        self.timeout_seconds = timeout_seconds
        self.wall_factor = wall_factor
        self.start_seconds = start_seconds
        self.max_chunk = max_chunk
        self.question = question
        self.settings = {
            "judge": str(judge),
            "arguments": dict(arguments),
            "timeout_seconds": timeout_seconds,
            "memory_mib": memory_mib,
        }
        self.workers: list[Worker] = []
        self.faults: dict[Outcome, tuple[int, str]] = {}
        self._failed_starts = 0
        self._killed = 0
        self._stalled = 0.0

    @property
    def command(self) -> list[str]:
        # Run by its path with -P: found from any working directory, and no module beside it shadows
        # a library's.
        settings = json.dumps(self.settings | {"parent": os.getpid()})
        return [sys.executable, "-P", str(SCRIPT), settings]

    def check(self) -> None:
        """Returns when a worker could be started. Raises as `judge` does."""
        tasks = Tasks([], self.question)
        while not any(worker.started for worker in self.workers):
            if not self.workers:
                self._start()
            self._listen(tasks)

    def judge(
        self, tasks: Sequence[tuple[Any, ...]], stall_seconds: float = math.inf
    ) -> list[Verdict]:
        """A verdict per task, in order.

        An answer stalls by the clock's seconds beyond FREE_FRACTION of its limit, and by the start of
        the worker that takes the place of one it ended. Once the workers have stalled for
        `stall_seconds` on average, what is open counts as timed out.
        Raises ConfigError where there is no judge to be had, RuntimeError when workers stop before
        they are ready.
        """
        book = Tasks(tasks, self.question)
        self._stalled = 0.0
        while book.num_open:
            shutdown.check()
            if self._stall() >= stall_seconds * self.size:
                words = f"slow answers had spent the call's {stall_seconds:g} s"
                for worker in [w for w in self.workers if w.tasks]:
                    self._finish(worker, Outcome.TIMEOUT, words, book)
                book.give_up(words)
                continue
            while len(self.workers) < min(self.size, book.num_open):
                self._start()
            for worker in [w for w in self.workers if w.ready]:
                if book.num_waiting:
                    self._hand_over(worker, book)
            self._listen(book)
        self.faults = book.faults
        return [book.verdicts[task] for task in range(len(tasks))]

    def close(self) -> None:
        """Kills the workers. Harmless when called twice; a later call starts new ones."""
        while self.workers:
            self.workers.pop().kill()
        self._killed = 0

    def _stalled_by(self, worker: Worker) -> float:
        free = FREE_FRACTION * self.timeout_seconds
        return max(0.0, time.monotonic() - worker.since - free)

    def _stall(self) -> float:
        """Seconds that all workers together have stalled in this call."""
        return self._stalled + sum(self._stalled_by(w) for w in self.workers if w.tasks)

    def _start(self) -> None:
        replaces = self._killed > 0
        self._killed -= replaces
        self.workers.append(Worker(self.command, self.start_seconds, replaces=replaces))

    def _hand_over(self, worker: Worker, book: Tasks) -> None:
        count = max(1, min(self.max_chunk, book.num_waiting // (2 * self.size)))
        numbers = [book.next() for _ in range(count)]
        content = pickle.dumps([book.tasks[number] for number in numbers])
        if not worker.send(numbers, content, self.wall_factor * self.timeout_seconds):
            book.put_back(numbers)
            self._drop(worker)

    def _listen(self, book: Tasks) -> None:
        """Waits for the next messages, and ends the workers that are late."""
        busy = {worker.fileno(): worker for worker in self.workers if not worker.ready}
        if not busy:
            return
        patience = min(worker.deadline for worker in busy.values()) - time.monotonic()
        patience = min(patience, self.timeout_seconds)  # to look at the stall again
        for pipe in wait(busy, max(0.0, patience)):
            assert isinstance(pipe, int)
            self._hear(busy[pipe], book)
        now = time.monotonic()
        for worker in [w for w in self.workers if not w.ready and w.deadline <= now]:
            limit = self.wall_factor * self.timeout_seconds
            self._finish(
                worker, Outcome.TIMEOUT, f"no verdict after {limit:g} s by the clock", book
            )

    def _hear(self, worker: Worker, book: Tasks) -> None:
        messages = worker.hear()
        if messages is None:
            self._finish(worker, Outcome.DIED, "", book)
            return
        for kind, *said in messages:
            if kind == "ready":
                if worker.replaces and not worker.started:
                    self._stalled += time.monotonic() - worker.since
                worker.ready = worker.started = True
                self._failed_starts = 0
            elif kind == "full":
                worker.leaving = True
            elif kind == "broken":
                self._drop(worker)
                raise ConfigError(said[0])
            else:
                self._settle(worker, Outcome(kind), said[0] if said else "", book)

    def _settle(self, worker: Worker, outcome: Outcome, said: Any, book: Tasks) -> None:
        """Takes the verdict for the first of the worker's tasks and counts the time it took."""
        task = worker.tasks.popleft()
        book.settle(task, outcome, said)
        if (stalled := self._stalled_by(worker)) > 0:
            self._stalled += stalled
            book.slow.add(book.questions[task])
        worker.since = time.monotonic()
        limit = self.wall_factor * self.timeout_seconds if worker.tasks else self.start_seconds
        worker.deadline = worker.since + limit

    def _finish(self, worker: Worker, outcome: Outcome, words: str, book: Tasks) -> None:
        """Ends a dead or late worker; the first of its tasks ended it, the others are still to do."""
        status = worker.kill()
        self.workers.remove(worker)
        if worker.tasks and not worker.leaving:
            if outcome is Outcome.DIED and status == -signal.SIGPROF:
                outcome = Outcome.TIMEOUT
                words = f"more than {self.timeout_seconds:g} s of processor time"
            elif outcome is Outcome.DIED:
                words = f"its process ended with {ending(status)}"
            self._settle(worker, outcome, words, book)
            self._killed += 1
        book.put_back(worker.tasks)
        if worker.started:
            return
        self._failed_starts += 1
        late = outcome is Outcome.TIMEOUT
        if late or self._failed_starts == MAX_FAILED_STARTS:
            number, limit = self._failed_starts, f" after {self.start_seconds:g} s" if late else ""
            self._failed_starts = 0
            raise RuntimeError(
                f"{number} verification worker{'s' if number > 1 else ''} stopped before they were"
                f" ready{limit}; run '{shlex.join(self.command)}' to see why"
            )

    def _drop(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.kill()


def ending(status: int) -> str:
    """Of a process, from its return code: `SIGKILL`, `exit status 3`."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
