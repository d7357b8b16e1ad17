"""Termination signals: the handler only sets a flag, and the command looks at it at safe points.

`check()` raises `Stopped` where nothing is half done: between engine steps, between graded answers, between
micro-batches and before a rollout step, so a stop takes effect within one engine step or one micro-batch.
Once a rollout step has changed the weights, it takes effect at the end of the step, or after
`checkpoints.stop_grace_seconds`.
A second signal ends the process at once.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NamedTuple

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""What terminals, batch systems and preemption send; SLURM's `--signal` often names the last two."""
HEAD_START_SECONDS = 3.0
"""By which rank 0, which writes the checkpoint, leaves before the other ranks."""
REPEAT_SECONDS = 1.0
"""Further signals within this time belong to the first one: `timeout`, for one, sends each signal twice."""


class Stopped(BaseException):
    """A termination signal asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that shells use for a signal."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class _Request(NamedTuple):
    number: int
    time: float


_request: _Request | None = None
_at_once = False


def _handle(number: int, frame: FrameType | None) -> None:
    global _request
    now = time.monotonic()
    if _request is None:
        _request = _Request(number, now)
        if _at_once:
            raise Stopped(number)
        name = signal.Signals(number).name
        words = (
            f"{name}: stopping at the next safe point; a second signal ends the process at once\n"
        )
        # Not print: the signal may arrive during one. The terminal may be gone.
        with suppress(OSError):
            os.write(2, words.encode())
    elif now - _request.time > REPEAT_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextmanager
def signals_honored(*, last: bool = False, at_once: bool = False) -> Iterator[None]:
    """Inside, each of SIGNALS requests a stop. Does nothing in another such block or outside the main thread.

    With `at_once` the handler itself raises Stopped, for commands without safe points that leave nothing
    half written. A signal that the parent process ignores, as `nohup` does, stays ignored. After the `last`
    block of a process that was stopped the handlers stay, so that a signal repeated within REPEAT_SECONDS
    does not change its exit status.
    """
    global _request, _at_once
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if _handle in before.values() or threading.current_thread() is not threading.main_thread():
        yield
        return
    _request, _at_once = None, at_once
    honored = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in honored:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        if not (last and _request):
            for number in honored:
                signal.signal(number, before[number] or signal.SIG_DFL)
            _request = None


def requested() -> int | None:
    """The termination signal that asked this process to stop."""
    return _request and _request.number


def due(grace: float = 0.0) -> int | None:
    """The termination signal of a stop that was requested at least `grace` seconds ago.

    Ranks above 0 add HEAD_START_SECONDS.
    """
    if _request is None:
        return None
    if int(os.environ.get("RANK", "0")) > 0:
        grace += HEAD_START_SECONDS
    return _request.number if time.monotonic() - _request.time >= grace else None


def check(grace: float = 0.0) -> None:
    """Raises Stopped if a stop is `due`."""
    if (number := due(grace)) is not None:
        raise Stopped(number)
