"""Worker processes that judge mathematical answers, each killed and replaced when late or dead."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

from ceeh.types import Outcome, Verdict

SCRIPT = Path(__file__).with_name("verify_worker.py")
START_SECONDS = 120.0
WALL_FACTOR = 10
FREE_FRACTION = 0.1
MAX_FAILED_STARTS = 3

RIGHT = Verdict(score=1.0, outcome=Outcome.OK)
WRONG = Verdict(score=0.0, outcome=Outcome.OK)
TIMED_OUT = Verdict(score=0.0, outcome=Outcome.TIMEOUT)
FAILED = Verdict(score=0.0, outcome=Outcome.ERROR)
UNREADABLE = Verdict(score=0.0, outcome=Outcome.UNREADABLE)
# The worker's bytes; it is not imported here, for that would bring sympy into the trainer.
READY = b"+"
VERDICTS = {b"1": RIGHT, b"0": WRONG, b"r": UNREADABLE, b"e": FAILED}


class Worker:
    """One process and the task it has; `deadline` and `since` are monotonic times in seconds."""

    def __init__(self, timeout_seconds: float, memory_mib: int, *, replaces: bool) -> None:
        # Run by its path with -P: found from any working directory, and no module beside it shadows
        # a library's.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT), str(timeout_seconds), str(memory_mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.task: int | None = None
        self.started = self.ready = False
        self.replaces = replaces
        self.since = time.monotonic()
        self.deadline = self.since + START_SECONDS

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, task: int, line: bytes, wall_seconds: float) -> bool:
        """Hands a task over; False when the process is gone and the task is still to be done."""
        assert self.process.stdin is not None
        self.ready = False
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self.process.stdin.fileno(), left) :]
        except BrokenPipeError:
            return False
        self.task, self.since = task, time.monotonic()
        self.deadline = self.since + wall_seconds
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Tasks:
    """What is still to be judged, and the verdicts; a task is the index of its pair.

    Questions take turns, and those that had a slow answer come last.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.references = [reference for reference, _ in pairs]
        self.lines = [json.dumps(pair).encode() + b"\n" for pair in pairs]
        self.verdicts: dict[int, Verdict] = {}
        self.slow: set[str] = set()
        seen: Counter[str] = Counter()
        turns = []
        for reference in self.references:
            turns.append(seen[reference])
            seen[reference] += 1
        self.waiting = deque(sorted(range(len(pairs)), key=turns.__getitem__))
        self.postponed: deque[int] = deque()

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + len(self.postponed)

    @property
    def num_open(self) -> int:
        return len(self.lines) - len(self.verdicts)

    def next(self) -> int:
        while self.waiting and self.references[self.waiting[0]] in self.slow:
            self.postponed.append(self.waiting.popleft())
        return (self.waiting or self.postponed).popleft()

    def give_up(self) -> None:
        while self.num_waiting:
            self.verdicts[self.next()] = TIMED_OUT


class WorkerPool:
    """At most `workers` processes of `memory_mib` each, started when first needed.

    `timeout_seconds` per answer are processor time, kept by the worker itself; one that has not
    replied after WALL_FACTOR times as long by the clock is killed from here.
    """

    def __init__(self, *, workers: int, timeout_seconds: float, memory_mib: int) -> None:
        self.size = workers
        self.timeout_seconds = timeout_seconds
        self.memory_mib = memory_mib
        self.workers: list[Worker] = []
        self._failed_starts = 0
        self._killed = 0
        self._stalled = 0.0

    def judge(
        self, pairs: Sequence[tuple[str, str]], stall_seconds: float = math.inf
    ) -> list[Verdict]:
        """A verdict per (reference, answer), in order.

        An answer stalls by the clock's seconds beyond FREE_FRACTION of its limit, and by the start of
        the worker that takes the place of one it ended. Once the workers have stalled for
        `stall_seconds` on average, what is open counts as timed out.
        Raises RuntimeError when workers stop before they are ready.
        """
        tasks = Tasks(pairs)
        self._stalled = 0.0
        while tasks.num_open:
            if self._stall() >= stall_seconds * self.size:
                tasks.give_up()
                for worker in [w for w in self.workers if w.task is not None]:
                    self._finish(worker, TIMED_OUT, tasks)
                continue
            while len(self.workers) < min(self.size, tasks.num_open):
                self._start()
            for worker in [w for w in self.workers if w.ready][: tasks.num_waiting]:
                task = tasks.next()
                if not worker.send(task, tasks.lines[task], WALL_FACTOR * self.timeout_seconds):
                    tasks.waiting.appendleft(task)
                    self._drop(worker)
            busy = [worker for worker in self.workers if not worker.ready]
            if not busy:
                continue
            patience = min(worker.deadline for worker in busy) - time.monotonic()
            patience = min(patience, self.timeout_seconds)  # to look at the stall again
            by_pipe = {worker.fileno(): worker for worker in busy}
            for pipe in wait(by_pipe, max(0.0, patience)):
                assert isinstance(pipe, int)
                self._hear(by_pipe[pipe], tasks)
            now = time.monotonic()
            for worker in [w for w in self.workers if not w.ready and w.deadline <= now]:
                self._finish(worker, TIMED_OUT, tasks)
        return [tasks.verdicts[task] for task in range(len(pairs))]

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
        return self._stalled + sum(self._stalled_by(w) for w in self.workers if w.task is not None)

    def _start(self) -> None:
        replaces = self._killed > 0
        self._killed -= replaces
        self.workers.append(Worker(self.timeout_seconds, self.memory_mib, replaces=replaces))

    def _hear(self, worker: Worker, tasks: Tasks) -> None:
        message = os.read(worker.fileno(), 1)
        if message == READY:
            if worker.replaces and not worker.started:
                self._stalled += time.monotonic() - worker.since
            worker.ready = worker.started = True
            self._failed_starts = 0
        elif message in VERDICTS and worker.task is not None:
            self._settle(worker, VERDICTS[message], tasks)
        else:
            late = worker.process.wait() == -signal.SIGPROF
            self._finish(worker, TIMED_OUT if late else FAILED, tasks)

    def _settle(self, worker: Worker, verdict: Verdict, tasks: Tasks) -> None:
        """Takes the verdict for the worker's task and counts the time it took."""
        assert worker.task is not None
        tasks.verdicts[worker.task] = verdict
        if (stalled := self._stalled_by(worker)) > 0:
            self._stalled += stalled
            tasks.slow.add(tasks.references[worker.task])
        worker.task, worker.since = None, time.monotonic()
        worker.deadline = worker.since + START_SECONDS

    def _finish(self, worker: Worker, verdict: Verdict, tasks: Tasks) -> None:
        """Ends a dead or late worker; `verdict` is for the task it had, if it had one."""
        if worker.task is not None:
            self._settle(worker, verdict, tasks)
            self._killed += 1
        elif not worker.started:
            self._failed_starts += 1
        self._drop(worker)
        if self._failed_starts == MAX_FAILED_STARTS:
            raise RuntimeError(
                f"{MAX_FAILED_STARTS} verification workers stopped before they were ready;"
                f" run '{sys.executable} -P {SCRIPT} {self.timeout_seconds} {self.memory_mib}'"
                " to see why"
            )

    def _drop(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.kill()
