"""How the tests end a run from inside."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest


class Killed(BaseException):
    """Like a SIGKILL: nothing in the run handles it."""


def interrupt() -> None:
    """Ctrl-C, to this process: a command that honors signals stops at its next safe point."""
    os.kill(os.getpid(), signal.SIGINT)


def die() -> None:
    raise Killed


def at_call(
    patch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
    act: Callable[[], object],
    *,
    after: bool = False,
) -> None:
    """Calls `act` just before, or after, the `call`-th call of a method; 0 is every call."""
    function, calls = getattr(owner, name), 0

    def watched(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        due = call in (0, calls)
        if due and not after:
            act()
        result = function(*arguments, **settings)
        if due and after:
            act()
        return result

    patch.setattr(owner, name, watched)
