"""Worker processes that judge mathematical answers, each killed and replaced when late or dead."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

from ceeh.types import Outcome, Verdict

SCRIPT = Path(__file__).with_name("verify_worker.py")
START_SECONDS = 120.0
WALL_FACTOR = 10
MAX_FAILED_STARTS = 3

RIGHT = Verdict(score=1.0, outcome=Outcome.OK)
WRONG = Verdict(score=0.0, outcome=Outcome.OK)
TIMED_OUT = Verdict(score=0.0, outcome=Outcome.TIMEOUT)
FAILED = Verdict(score=0.0, outcome=Outcome.ERROR)
# The worker's bytes; it is not imported here, for that would bring sympy into the trainer.
READY = b"+"
VERDICTS = {b"1": RIGHT, b"0": WRONG, b"r": FAILED, b"e": FAILED}


class Worker:
    """One process and the task it has; `deadline` is a monotonic time in seconds."""

    def __init__(self, timeout_seconds: float, memory_mib: int) -> None:
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
        self.deadline = time.monotonic() + START_SECONDS

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
        self.task, self.deadline = task, time.monotonic() + wall_seconds
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


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

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """A verdict per (reference, answer), in order.

        Raises RuntimeError when workers stop before they are ready.
        """
        verdicts: dict[int, Verdict] = {}
        waiting = deque(range(len(pairs)))
        while len(verdicts) < len(pairs):
            while len(self.workers) < min(self.size, len(pairs) - len(verdicts)):
                self.workers.append(Worker(self.timeout_seconds, self.memory_mib))
            for worker in [w for w in self.workers if w.ready][: len(waiting)]:
                task = waiting.popleft()
                line = json.dumps(pairs[task]).encode() + b"\n"
                if not worker.send(task, line, WALL_FACTOR * self.timeout_seconds):
                    waiting.appendleft(task)
                    self._drop(worker)
            busy = [worker for worker in self.workers if not worker.ready]
            if not busy:
                continue
            patience = min(worker.deadline for worker in busy) - time.monotonic()
            by_pipe = {worker.fileno(): worker for worker in busy}
            for pipe in wait(by_pipe, max(0.0, patience)):
                assert isinstance(pipe, int)
                self._hear(by_pipe[pipe], verdicts)
            now = time.monotonic()
            for worker in [w for w in self.workers if not w.ready and w.deadline <= now]:
                self._finish(worker, TIMED_OUT, verdicts)
        return [verdicts[task] for task in range(len(pairs))]

    def close(self) -> None:
        """Kills the workers. Harmless when called twice; a later call starts new ones."""
        while self.workers:
            self.workers.pop().kill()

    def _hear(self, worker: Worker, verdicts: dict[int, Verdict]) -> None:
        message = os.read(worker.fileno(), 1)
        if message == READY:
            worker.ready = worker.started = True
            self._failed_starts = 0
        elif message in VERDICTS and worker.task is not None:
            verdicts[worker.task] = VERDICTS[message]
            worker.task, worker.deadline = None, time.monotonic() + START_SECONDS
        else:
            late = worker.process.wait() == -signal.SIGPROF
            self._finish(worker, TIMED_OUT if late else FAILED, verdicts)

    def _finish(self, worker: Worker, verdict: Verdict, verdicts: dict[int, Verdict]) -> None:
        """Ends a dead or late worker; `verdict` is for the task it had, if it had one."""
        if worker.task is not None:
            verdicts[worker.task] = verdict
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
