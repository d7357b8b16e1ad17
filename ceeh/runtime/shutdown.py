"""Signals that ask a command to stop: where they may interrupt it, and with which status it ends.

A signal raises `Stopped` in the main thread at once, in the midst of generation, scoring, a forward or a
backward pass: nothing is lost there, for the state of the last finished step is still at hand. From a step's
first optimizer step to its end (`delay`, `release`) it waits, for GRACE_SECONDS at most; while a file is
written (`held`) it waits for the file. Of several processes rank 0 writes the files, so the others wait as
long for it to leave first.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""What a terminal, a batch system and a pre-emption send; SLURM's `--signal` often names the last two."""
GRACE_SECONDS = 3.0
REMINDER_SECONDS = 0.5


class Stopped(BaseException):
    """A signal asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status of a command that a signal ended, as shells give it."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class _Stop:
    """Of this process: signals have one handler, whoever asks."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.since = 0.0
        self.delayed = False
        self.holders = 0
        self.asked = threading.Event()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self.since = number, time.monotonic()
            self.asked.set()
            # Not print: the signal may have come in the midst of one. What reads it may be gone already.
            with suppress(OSError):
                os.write(2, f"{signal.Signals(number).name}: stopping ...\n".encode())
        self.raise_if_due()

    def raise_if_due(self) -> None:
        """Raises Stopped where one is asked for and neither held, delayed nor on its way."""
        if self.number is None or self.holders or _is_unwinding():
            return
        waits = self.delayed or int(os.environ.get("RANK", "0")) > 0
        if waits and time.monotonic() - self.since < GRACE_SECONDS:
            return
        raise Stopped(self.number)


_stop = _Stop()


@contextmanager
def signals_honored(*, last: bool = False) -> Iterator[None]:
    """Inside, each of SIGNALS raises Stopped as above. Further ones change nothing.

    In a block of its own kind, and outside the main thread, where Python takes no signals, it does
    nothing. A signal that whoever started the process has ignored, as nohup does, stays so. After the
    `last` block of a process a further signal would change its exit status: they are ignored then.
    """
    global _stop
    outer = _stop
    ours = signal.getsignal(signal.SIGTERM) == outer.handle
    if ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    stop, ended, before = _Stop(), threading.Event(), {}
    stop.holders = 1
    arguments = (stop, threading.get_ident(), ended)
    threading.Thread(target=_remind, args=arguments, name="stopping", daemon=True).start()
    try:
        for number in SIGNALS:
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                before[number] = handler or signal.SIG_DFL
                signal.signal(number, stop.handle)
        _stop = stop
        with _let_through(stop):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last and stop.number else handler)
        ended.set()
        stop.asked.set()
        _stop = outer


@contextmanager
def _let_through(stop: _Stop) -> Iterator[None]:
    stop.holders -= 1
    try:
        yield
    finally:
        stop.holders += 1


def delay() -> None:
    """From here to `release` a signal waits, GRACE_SECONDS at most."""
    _stop.delayed = True


def release() -> None:
    """The end of what `delay` began. Raises Stopped if a signal came meanwhile."""
    _stop.delayed = False
    _stop.raise_if_due()


@contextmanager
def held() -> Iterator[None]:
    """Inside, a signal waits, however long it takes."""
    _stop.holders += 1
    try:
        yield
    finally:
        _stop.holders -= 1


def signal_asked() -> int | None:
    """The signal that has asked this process to stop."""
    return _stop.number


def _remind(stop: _Stop, main_thread: int, ended: threading.Event) -> None:
    """Sends the signal again until the command is over.

    For a grace that ends, and for a place that loses exceptions, such as `__del__`.
    """
    stop.asked.wait()
    while not ended.wait(REMINDER_SECONDS):
        if stop.number is not None:
            signal.pthread_kill(main_thread, stop.number)


def _is_unwinding() -> bool:
    """Whether the main thread is on its way out with Stopped already: clean-up is not to be broken off."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, Stopped):
            return True
        error = error.__context__
    return False
