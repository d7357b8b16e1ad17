"""How the tests end a run from within."""

import os
import signal


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the run handles it."""


def interrupt() -> None:
    """Ctrl-C, to this process: what a command that honors signals raises comes out of here."""
    os.kill(os.getpid(), signal.SIGINT)
