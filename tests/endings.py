"""How the tests end a run from inside."""

import os
import signal


class Killed(BaseException):
    """Like a SIGKILL: nothing in the run handles it."""


def interrupt() -> None:
    """Ctrl-C, to this process: a command that honors signals stops at its next safe point."""
    os.kill(os.getpid(), signal.SIGINT)
