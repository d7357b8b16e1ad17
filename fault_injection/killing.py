"""Phases of a run, and a signal sent in a chosen one, by patching the process."""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ceeh.callbacks.checkpoint import RunCheckpoint
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.data.loader import RolloutLoader
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.run import checkpoint_io
from ceeh.run.checkpoint_io import Stream
from ceeh.run.disk_space import storage_bytes
from ceeh.run.metrics_file import JSONLLogger
from ceeh.run.shards import tensors

PHASES = {
    "start": 1,
    "generation": 4,
    "scoring": 4,
    "forward": 10,
    "backward": 10,
    "optimizer": 10,
    "push": 5,
    "write": 2,
    "save": 2,
    "metrics": 6,
    "evaluation": 4,
    "model": 1,
}
"""Name -> number of calls among which one is chosen; `write` is within a checkpoint's bytes, `save` around
its rename, `metrics` around a line of metrics.jsonl."""

START_SECONDS = 3.0
"""Of an engine, about: its first call has no earlier one to measure."""


class Killer:
    """Sends its own process the signal `number` within the `call`-th call of a method.

    `moment` in [0, 1) is the fraction of the last call's time, or of a file's bytes; a call that ends earlier
    is killed at its end, so that the phase is always the chosen one. The file `note` has the time, by the
    machine's monotonic clock, in its first line and the place in its second.
    """

    def __init__(self, call: int, moment: float, note: Path, number: int = signal.SIGKILL) -> None:
        self.call = call
        self.moment = moment
        self.note = note
        self.number = number
        self.calls = 0
        self.seconds = 0.0
        note.unlink(missing_ok=True)

    def kill(self, words: str) -> None:
        if not self.note.exists():
            self.note.write_text(f"{time.monotonic()}\n{words}")
            os.kill(os.getpid(), self.number)

    def around(
        self, owner: type | ModuleType, name: str, counts: Callable[[], bool] = lambda: True
    ) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*arguments: Any, **settings: Any) -> Any:
            if not counts():
                return function(*arguments, **settings)
            self.calls += 1
            place = f"{owner.__name__}.{name}, call {self.calls}"
            if self.calls == self.call:
                delay = self.moment * self.seconds
                threading.Timer(delay, self.kill, [f"{place}, after {delay:.3f} s"]).start()
                result = function(*arguments, **settings)
                self.kill(f"{place}, at its end")
                return result
            begin = time.perf_counter()
            result = function(*arguments, **settings)
            self.seconds = time.perf_counter() - begin
            return result

        setattr(owner, name, watched)

    def arm(self, phase: str) -> None:
        """Patches the methods of `phase`; some phases have two places, chosen by the moment."""
        sampling, late = Sampling(), self.moment >= 0.5
        match phase:
            case "start":
                self.seconds = START_SECONDS
                self.around(VLLMEngine, "__init__")
            case "generation":
                self.around(VLLMEngine, "generate", sampling)
            case "scoring":
                self.around(ExactAnswer, "__call__", sampling)
            case "forward":
                self.around(Policy, "forward")
            case "backward":
                self.around(CEEHModule, "manual_backward")
            case "optimizer":
                self.around(CEEHModule, "apply_update")
            case "push":
                self.around(VLLMEngine, "load_weights")
            case "write":
                self.within_bytes()
            case "save":
                place = (RunCheckpoint, "save") if late else (checkpoint_io, "write_archive")
                self.around(*place)
            case "metrics":
                self.around(JSONLLogger, "log_metrics")
            case "evaluation" if late:
                self.around(VLLMEngine, "generate", lambda: not sampling())
            case "evaluation":
                self.around(CEEHModule, "validation_step")
            case "model":
                self.around(Policy, "save")
            case _:
                raise ValueError(f"no phase '{phase}'; there are {', '.join(PHASES)}")

    def within_bytes(self) -> None:
        """Kills when the fraction `moment` of a checkpoint's bytes has been written."""
        size = 0
        save, write = checkpoint_io.write_archive, Stream.write

        def counted(content: Any, file: Path) -> tuple[int, int]:
            nonlocal size
            self.calls += 1
            size = storage_bytes(tensor for _, tensor in tensors(content, ""))
            return save(content, file)

        def watched(stream: Stream, data: bytes | memoryview) -> int:
            written = write(stream, data)
            if self.calls == self.call and stream.target.tell() >= self.moment * size:
                stream.target.flush()
                self.kill(f"checkpoint file {self.calls}, after {stream.target.tell()} bytes")
            return written

        checkpoint_io.write_archive, Stream.write = counted, watched  # type: ignore[method-assign]


class Sampling:
    """Whether training prompts are being sampled, not held-out ones."""

    def __init__(self) -> None:
        self.now = False
        sample = RolloutLoader.sample

        def noting(loader: RolloutLoader) -> Any:
            self.now = True
            try:
                return sample(loader)
            finally:
                self.now = False

        RolloutLoader.sample = noting  # type: ignore[method-assign]

    def __call__(self) -> bool:
        return self.now
