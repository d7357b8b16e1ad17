"""The process that grades answers, killable at any time; its pool runs this file as a script.

Its one argument is JSON: `grader`, a file whose `build(**arguments)` returns the grader, and the limits.
Standard input brings pickled lists of tasks. Each message is a line of JSON: ["ready"] at the start, a
reply per task, [outcome, score or description], ["full"] when the process exits because its memory
fills up, ["broken", description] when the grader cannot be built. What the grader prints is discarded.
This file imports nothing of the package.
"""

import ctypes
import importlib.util
import json
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_CHARACTERS = 2000
PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Makes the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(0)


def private_streams() -> tuple[Any, int]:
    """The stream of tasks and the descriptor for messages; 0 and 1 become /dev/null for the grader."""
    tasks, messages = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return tasks, messages


def set_limit(kind: int, value: int) -> None:
    """Sets the soft limit; a batch system or container may have set a lower hard limit."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def address_space() -> int:
    """Bytes of address space, which RLIMIT_AS limits; `ru_maxrss` would count the parent's."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def load(grader: str, arguments: dict[str, Any]) -> Callable[..., list[Any]]:
    spec = importlib.util.spec_from_file_location("grader", grader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(**arguments)


def reply(grader: Callable[..., list[Any]], task: tuple[Any, ...]) -> list[Any]:
    try:
        return grader(*task)
    except MemoryError:
        return ["memory", "MemoryError"]
    except BaseException as error:  # the user's code; SystemExit fails one answer, too
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # without this one
        lines = traceback.format_exception(type(error), error, frames)
        return ["error", "".join(lines).strip()[-MAX_CHARACTERS:]]


def main(settings: dict[str, Any]) -> None:
    """Grades tasks until standard input ends or half of the memory left after the start is used.

    A process short of memory would fail on harmless answers, so it exits between two tasks. The limit
    is CPU time, kept by a timer whose signal has no handler: the kernel ends the process even in C
    code, and a busy machine does not make an answer late.
    """
    die_with(settings["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks, messages = private_streams()
    own = os.getpid()

    def say(*message: Any) -> None:
        if os.getpid() != own:
            os._exit(0)  # a fork by the user's code came back: its answer would be another one's
        os.write(messages, json.dumps(message).encode() + b"\n")

    limit = (settings["memory_mib"] or 0) * 2**20
    if limit:
        set_limit(resource.RLIMIT_AS, limit)
    set_limit(resource.RLIMIT_CORE, 0)
    try:
        grader = load(settings["grader"], settings["arguments"])
    except BaseException as error:  # the user's code, which may do anything at import
        say("broken", f"{error or type(error).__name__}")
        return
    full = (address_space() + limit) / 2
    say("ready")
    while True:
        try:
            given = pickle.load(tasks)
        except EOFError:
            return
        for task in given:
            signal.setitimer(signal.ITIMER_PROF, settings["timeout_seconds"])
            message = reply(grader, task)
            signal.setitimer(signal.ITIMER_PROF, 0)
            say(*message)
            if limit and address_space() > full:
                say("full")
                return


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
