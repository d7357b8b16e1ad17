"""Signals that ask a command to stop: where they may interrupt it, and with which status it ends.

A signal raises `Stopped` in the main thread at once, in the midst of generation, scoring, a forward or a
backward pass: nothing is lost there, for the state of the last finished step is still at hand. From a step's
first optimiser step to its end (`delay`, `release`) it waits, for GRACE_SECONDS at most; while a file is
written (`held`) it waits for the file.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
            # Not print: the signal may have come in the midst of one.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, self._words(number))
            self.asked.set()
        self.raise_if_due()

    def raise_if_due(self) -> None:
        """Raises Stopped where one is asked for and neither held, delayed nor on its way."""
        if self.number is None or self.holders or _is_unwinding():
            return
        if self.delayed and time.monotonic() - self.since < GRACE_SECONDS:
            return
        raise Stopped(self.number)

    @staticmethod
    def _words(number: int) -> bytes:
        return f"{signal.Signals(number).name}: stopping ...\n".encode()


_stop = _Stop()


@contextmanager
def signals_honoured() -> Iterator[None]:
    """Inside, each of SIGNALS raises Stopped as above. Further ones change nothing.

    Outside the main thread, where Python takes no signals, it does nothing. After a stop was asked for the
    signals stay ignored: the process is about to end, and would end otherwise than it should.
    """
    global _stop
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stop = _stop = _Stop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup: whoever started the command wants it so
            signal.signal(number, stop.handle)
    ended = threading.Event()
    arguments = (stop, threading.get_ident(), ended)
    threading.Thread(target=_remind, args=arguments, name="stopping", daemon=True).start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(
                number, (handler or signal.SIG_DFL) if not stop.number else signal.SIG_IGN
            )
        ended.set()
        stop.asked.set()
        _stop = _Stop()


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


def is_asked() -> bool:
    """Whether a signal has asked this process to stop."""
    return _stop.number is not None


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
