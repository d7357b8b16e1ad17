"""A reward function that fails on request, for the fault injection and the tests; only workers run it.

Workers must start fast, so this file imports only the standard library.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

HELD = []


def reward(prompt: Any, response: str, scale: float = 1.0) -> Any:
    """Commits the fault that the response names; otherwise, whether it contains the prompt's answer."""
    if response in FAULTS:
        return FAULTS[response][1]()
    print("printed", prompt.uid, flush=True)
    print("logged", file=sys.stderr)
    return scale * float(prompt.answer in response)


class Reward:
    """The same as a class; `bonus` for a response that ends in a period."""

    def __init__(self, bonus: float) -> None:
        self.bonus = bonus

    def __call__(self, prompt: Any, response: str) -> float:
        return self.bonus if response.endswith(".") else float(prompt.answer in response)


def raises() -> None:
    raise KeyError("gold")


def spins() -> None:
    while True:
        pass


def ignores_the_timer() -> None:
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    spins()


def eats() -> None:
    while True:  # memory that is reserved and not touched
        HELD.append(bytes(2**26))


def closes() -> None:
    os.closerange(0, 4096)
    time.sleep(3600)


def leaves_a_child() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    os._exit(4)


def recurses() -> None:
    recurses()


FAULTS: dict[str, tuple[str, Any]] = {
    "raises": ("error", raises),
    "calls sys.exit": ("error", lambda: sys.exit(0)),
    "reads input": ("error", input),
    "recurses": ("error", recurses),
    "returns nan": ("invalid", lambda: float("nan")),
    "returns infinity": ("invalid", lambda: float("inf")),
    "returns 1.5": ("invalid", lambda: 1.5),
    "returns -0.1": ("invalid", lambda: -0.1),
    "returns None": ("invalid", lambda: None),
    "returns a text": ("invalid", lambda: "1"),
    "returns one value per completion": ("invalid", lambda: [1.0, 0.0]),
    "sleeps": ("timeout", lambda: time.sleep(3600)),
    "spins": ("timeout", spins),
    "spins and ignores the timer": ("timeout", ignores_the_timer),
    "exits": ("died", lambda: os._exit(0)),
    "kills itself": ("died", lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "segfaults": ("died", lambda: ctypes.string_at(0)),
    "closes its pipes": ("died", closes),
    "leaves a child": ("died", leaves_a_child),
    "eats memory": ("memory", eats),
}
"""Response -> (expected outcome, what it does)."""
