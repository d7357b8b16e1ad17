"""The process in which answers are judged, killable at any time; run as a script by its pool.

Its one argument is JSON: `judge`, a file whose `build(**arguments)` returns the judge, and the limits.
Standard input brings pickled lists of tasks; a line of JSON goes out per message: ["ready"] before each
list, then a reply per task, [outcome, score or words]; ["full"] when the process leaves because its
memory fills up, ["broken", words] when there is no judge. Whatever the judge prints goes nowhere. This
file imports nothing of the package.
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

MAX_WORDS = 2000
PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(0)


def private_ends() -> tuple[Any, int]:
    """The tasks' stream and the messages' descriptor; 0 and 1 are left to the judge, and lead nowhere."""
    tasks, messages = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return tasks, messages


def set_limit(kind: int, value: int) -> None:
    """Sets the soft limit; the hard one may be lower already, by a batch system or a container."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def address_space() -> int:
    """Bytes of address space, what RLIMIT_AS limits; `ru_maxrss` would count the parent's."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def load(judge: str, arguments: dict[str, Any]) -> Callable[..., list[Any]]:
    spec = importlib.util.spec_from_file_location("judge", judge)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(**arguments)


def told(error: BaseException) -> str:
    """The traceback from the judge's own frames on; its end when it is long."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, inner)).strip()[-MAX_WORDS:]


def answer(judge: Callable[..., list[Any]], task: tuple[Any, ...]) -> list[Any]:
    try:
        return judge(*task)
    except MemoryError:
        return ["memory", "MemoryError"]
    except BaseException as error:  # the user's code: SystemExit, too, is one answer's failure
        return ["error", told(error)]


def main(settings: dict[str, Any]) -> None:
    """Judges tasks until standard input ends or half of the memory that was left is used.

    A nearly full process would fail on innocent answers, so it leaves between two tasks. The limit
    is processor time, by a timer whose signal nobody handles: the kernel ends the process wherever
    it is, in C code or with its parent gone, and a busy machine does not make right answers late.
    """
    die_with(settings["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks, messages = private_ends()

    def say(message: list[Any]) -> None:
        os.write(messages, json.dumps(message).encode() + b"\n")

    limit = (settings["memory_mib"] or 0) * 2**20
    if limit:
        set_limit(resource.RLIMIT_AS, limit)
    set_limit(resource.RLIMIT_CORE, 0)
    try:
        judge = load(settings["judge"], settings["arguments"])
    except BaseException as error:  # the user's code, which may do anything while it is imported
        say(["broken", f"{error or type(error).__name__}"])
        return
    full = (address_space() + limit) / 2
    while True:
        say(["ready"])
        try:
            given = pickle.load(tasks)
        except EOFError:
            return
        for task in given:
            signal.setitimer(signal.ITIMER_PROF, settings["timeout_seconds"])
            reply = answer(judge, task)
            signal.setitimer(signal.ITIMER_PROF, 0)
            say(reply)
            if limit and address_space() > full:
                say(["full"])
                return


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
