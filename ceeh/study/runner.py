"""Runs of a study, each a chain of commands in processes of their own, side by side.

A run that fails does not end the others. A termination signal is passed on to every process, and the
study ends when all of them have saved and ended.
"""

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from ceeh.runtime import shutdown
from ceeh.runtime.distributed import say
from ceeh.runtime.text import escape, redact

POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1
MAX_SHOWN = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command of a run; `done` says whether its result is there."""

    words: str
    command: Sequence[str]
    done: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A run: its steps in their order, the log of all of them, and what to print of a finished one."""

    name: str
    steps: Sequence[Step]
    log: Path
    result: Callable[[], str]

    @property
    def left(self) -> list[Step]:
        return [step for step in self.steps if not step.done()]


@dataclass(slots=True, kw_only=True)
class Job:
    """A task that is running in a slot."""

    task: Task
    slot: int
    began: float
    step: Step
    steps: deque[Step]
    """Those after `step`."""
    log: BinaryIO
    offset: int
    """Where the output of `step` begins in the log."""
    process: subprocess.Popen[bytes]


class Runner:
    """`environments` has an entry per slot, and as many tasks run side by side: what its processes see."""

    def __init__(self, tasks: Sequence[Task], environments: Sequence[Mapping[str, str]]) -> None:
        self.tasks = tasks
        self.environments = environments
        self.waiting = deque(task for task in tasks if task.left)
        self.ended = len(tasks) - len(self.waiting)
        self.jobs: dict[int, Job] = {}
        self.failures: dict[str, str] = {}
        """How each run that failed ended."""
        self.seconds: list[float] = []
        """Of the tasks that ended here."""

    def run(self) -> dict[str, str]:
        """Runs what is left of the tasks, in their order; returns how those that failed ended.

        Raises Stopped when a termination signal ended it, after all processes have ended.
        """
        if self.ended:
            say(f"{self.ended} of {len(self.tasks)} runs have ended before")
        try:
            while self.waiting or self.jobs:
                if (number := shutdown.requested()) is not None:
                    self._stop(number)
                    shutdown.check()
                for slot in range(len(self.environments)):
                    if slot not in self.jobs and self.waiting:
                        self._start(self.waiting.popleft(), slot)
                time.sleep(POLL_SECONDS)
                for job in list(self.jobs.values()):
                    if (status := job.process.poll()) is not None:
                        self._ended(job, status)
        finally:  # an error of ours leaves no run behind
            self._stop(signal.SIGTERM)
        return self.failures

    def _start(self, task: Task, slot: int) -> None:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        began, log = time.monotonic(), task.log.open("ab")
        try:  # the processes share this lock: it holds as long as one of them lives
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.close()
            self._failed(task, "another process runs it; wait for its end, or stop it")
            return
        if steps := deque(task.left):
            self.jobs[slot] = self._spawn(task, slot, began, steps, log)
        else:  # another study ended it meanwhile
            log.close()
            self.ended += 1

    def _spawn(self, task: Task, slot: int, began: float, steps: deque[Step], log: BinaryIO) -> Job:
        """The first of `steps` in a session of its own, because a terminal sends Ctrl-C to all of one."""
        step = steps.popleft()
        say(f"{self._place()} {task.name}: {step.words} ...")
        log.write(f"$ {redact(shlex.join(step.command))}\n".encode())
        log.flush()
        offset = log.tell()
        process = subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | self.environments[slot],
            start_new_session=True,
            preexec_fn=_stop_with_parent(os.getpid()),
        )
        return Job(
            task=task,
            slot=slot,
            began=began,
            step=step,
            steps=steps,
            log=log,
            offset=offset,
            process=process,
        )

    def _ended(self, job: Job, status: int) -> None:
        task, succeeded = job.task, status == 0 and job.step.done()
        if succeeded and job.steps:
            self.jobs[job.slot] = self._spawn(task, job.slot, job.began, job.steps, job.log)
            return
        del self.jobs[job.slot]
        job.log.close()
        self.seconds.append(time.monotonic() - job.began)
        took = timedelta(seconds=round(self.seconds[-1]))
        if succeeded:
            self.ended += 1
            say(f"{self._place()} {task.name}: {task.result()}; {took}{self._remaining()}")
        else:
            last = last_line(task.log, job.offset)
            self._failed(
                task, f"{job.step.words}: {ending(status)} after {took}: {last} ({task.log})"
            )

    def _failed(self, task: Task, words: str) -> None:
        self.failures[task.name] = words
        say(f"{self._place()} {task.name}: failed, {words}{self._remaining()}")

    def _place(self) -> str:
        return f"[{self.ended}/{len(self.tasks)}]"

    def _remaining(self) -> str:
        left = len(self.waiting) + len(self.jobs)
        if not left or not self.seconds:
            return ""
        mean = sum(self.seconds) / len(self.seconds)
        eta = timedelta(seconds=round(mean * left / len(self.environments)))
        return f"; {left} left, ETA {eta}"

    def _stop(self, number: int) -> None:
        """Passes the signal on and waits: a run saves its last finished step."""
        running = [job for job in self.jobs.values() if job.process.poll() is None]
        if running:
            say(f"waiting for {', '.join(job.task.name for job in running)} to save and end ...")
        for job in running:
            with suppress(ProcessLookupError):
                job.process.send_signal(number)
        for job in self.jobs.values():
            job.process.wait()
            job.log.close()
        self.jobs.clear()


def _stop_with_parent(parent: int) -> Callable[[], None]:
    """What a new process does first: it asks for SIGTERM when the study ends, however that ends."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the call
            os._exit(128 + signal.SIGTERM)

    return ask


def ending(status: int) -> str:
    """How a process ended: `status 2`, `killed by SIGKILL`, or status 0 without its result."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"status {status}" if status else "it ended without its result"


def last_line(log: Path, offset: int) -> str:
    """The last line with text in a log after `offset` bytes, shortened."""
    lines = log.read_bytes()[offset:].decode(errors="replace").splitlines()
    text = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return escape(text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}...")
