"""A user's reward function under guard: how it is found and started, and when its failures end the run."""

import importlib
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ceeh.data.verify.base import score_groups
from ceeh.data.verify.pool import WorkerPool
from ceeh.errors import ConfigError
from ceeh.runtime.text import escape
from ceeh.types import (
    FAILURES,
    Completion,
    Finish,
    Outcome,
    Prompt,
    RolloutGroup,
    ScoredGroup,
    Verdict,
)

GRADER = Path(__file__).with_name("reward_worker.py")

WALL_FACTOR, MAX_CHUNK = 3, 64
WINDOW, FEWEST = 256, 32
MAX_WORDS = 300

logger = logging.getLogger(__name__)


def check_limits(workers: int, memory_mib: int | None, least_mib: int, **seconds: float) -> None:
    """Raises ConfigError for a limit out of range; `seconds` by the first word of their names."""
    for name, value in seconds.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}_seconds must be greater than 0, got {value}")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if memory_mib is not None and memory_mib < least_mib:
        raise ConfigError(
            f"memory_mib must be at least {least_mib}, what a worker needs to start, got {memory_mib}"
        )


def import_path(function: Callable[..., object]) -> str:
    """`package.module.function`, by which another process finds `function`.

    Raises ConfigError for one that cannot be found so: a lambda, a closure, one typed at a prompt.
    """
    module, name = (getattr(function, key, "") for key in ("__module__", "__qualname__"))
    try:
        found = name and getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        found = None
    if found is not function or module == "__main__":
        raise ConfigError(
            f"class_path: {function!r:.80} cannot be imported by the worker processes; write it at the"
            " top of a module or file and give package.module.function or path/to/file.py:function,"
            " with what it depends on as init_args"
        )
    return f"{module}.{name}"


class RewardPool(WorkerPool):
    """Workers that import `class_path` as this process would; a task is (prompt, response)."""

    def __init__(
        self,
        class_path: str,
        init_args: Mapping[str, Any],
        workers: int,
        timeout_seconds: float,
        memory_mib: int | None,
        start_seconds: float,
    ) -> None:
        self.class_path = class_path
        arguments = {
            "class_path": class_path,
            "init_args": dict(init_args),
            "sys_path": [str(Path(folder).absolute()) for folder in sys.path],
        }
        super().__init__(
            GRADER,
            arguments,
            workers=workers,
            timeout_seconds=timeout_seconds,
            memory_mib=memory_mib,
            wall_factor=WALL_FACTOR,
            start_seconds=start_seconds,
            max_chunk=MAX_CHUNK,
            question=lambda task: task[0].uid,
        )

    def check(self) -> None:
        with self._startable():
            super().check()

    def judge(
        self, tasks: Sequence[tuple[Any, ...]], stall_seconds: float = math.inf
    ) -> list[Verdict]:
        with self._startable():
            return super().judge(tasks, stall_seconds)

    @contextmanager
    def _startable(self) -> Iterator[None]:
        """A process that ends while it imports the user's code is the user's mistake."""
        try:
            yield
        except RuntimeError as error:
            raise ConfigError(f"init_args.class_path: '{self.class_path}': {error}") from error


class FailureWatch:
    """Logs the first failure of each kind; ends a run in which too many of the last answers failed.

    The last answers are those of a call, and earlier ones up to WINDOW in all; FEWEST at least.
    """

    def __init__(self, name: str, max_failed_fraction: float) -> None:
        if not 0 <= max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction must be in [0, 1], got {max_failed_fraction}")
        self.name = name
        self.max_failed_fraction = max_failed_fraction
        self.first: dict[Outcome, tuple[str, str]] = {}
        self.last: list[Outcome] = []

    def see(self, verdicts: Sequence[Verdict], faults: Mapping[Outcome, tuple[str, str]]) -> None:
        """Takes a call's verdicts and the first fault of each kind: the prompt's uid, and words.

        Raises ConfigError when the share of failures is above the limit.
        """
        for kind, (uid, words) in faults.items():
            if kind not in self.first:
                self.first[kind] = (uid, words)
                logger.warning(
                    "verifier: %s failed on prompt '%s' (%s); this and later failures score 0 and are"
                    " counted in reward/outcome_%s: %s",
                    *(self.name, uid, kind.value, kind.value, escape(words)),
                )
        new = [verdict.outcome for verdict in verdicts]
        self.last = (self.last + new)[-max(WINDOW, len(new)) :]
        failed = Counter(outcome for outcome in self.last if outcome in FAILURES)
        share = failed.total() / max(len(self.last), 1)
        if len(self.last) < FEWEST or share <= self.max_failed_fraction:
            return
        kinds = ", ".join(f"{count} {kind.value}" for kind, count in failed.most_common())
        kind, (uid, words) = next(iter(self.first.items()))
        raise ConfigError(
            f"verifier.init_args.max_failed_fraction: {self.name} failed on {share:.1%} of the last"
            f" {len(self.last)} answers ({kinds}), and at most {self.max_failed_fraction:.1%} may fail."
            f" The first failure, on prompt '{uid}' ({kind.value}): {words[-MAX_WORDS:]}\n"
            "Correct it and continue with ckpt_path=last, or raise the limit"
        )


class RewardFunction:
    """A user's `(prompt: Prompt, response: str) -> float` in [0, 1], asked of finished responses.

    `class_path` is `package.module.function` or `path/to/file.py:function`, called with `init_args` as
    further keywords; or a class, made of `init_args`, whose instances are called. A function given in
    Python must be found again by its module and name. It is imported in the worker processes alone,
    `workers` of `memory_mib` each (None: no limit, for what reserves more address space than it uses,
    such as CUDA). What it keeps between answers is each process's own and may go at any time; what it
    prints goes nowhere.

    An exception, anything but one finite number in [0, 1], more than `timeout_seconds` of processor time
    or three times as many by the clock, too much memory and the end of its process cost this one answer:
    it scores 0 and is counted by kind, the first of each kind is logged. Where more than
    `max_failed_fraction` of the last answers failed (a call's, at least 256) the run ends.
    A call lasts no longer than MathAnswer's with `stall_seconds`.
    Raises ConfigError where there is nothing to import, or it takes more than `start_seconds`.
    """

    def __init__(
        self,
        class_path: str | Callable[..., object],
        init_args: dict[str, Any] | None = None,
        workers: int = 2,
        timeout_seconds: float = 5,
        memory_mib: int | None = 4096,
        stall_seconds: float = 30,
        start_seconds: float = 120,
        max_failed_fraction: float = 0.2,
    ) -> None:
        self.class_path = class_path if isinstance(class_path, str) else import_path(class_path)
        seconds = {"timeout": timeout_seconds, "stall": stall_seconds, "start": start_seconds}
        check_limits(workers, memory_mib, 64, **seconds)
        self.stall_seconds = stall_seconds
        self.watch = FailureWatch(self.class_path, max_failed_fraction)
        self.pool = RewardPool(
            self.class_path, init_args or {}, workers, timeout_seconds, memory_mib, start_seconds
        )
        with closing(self.pool):  # rollouts are a model's start away
            self.pool.check()

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        tasks = [
            (group.prompt, completion.text)
            for group in groups
            for completion in group.completions
            if completion.finish is Finish.STOP
        ]
        verdicts = self.pool.judge(tasks, self.stall_seconds)
        faults = sorted(self.pool.faults.items(), key=lambda fault: fault[1])
        self.watch.see(verdicts, {kind: (tasks[n][0].uid, words) for kind, (n, words) in faults})
        judged = iter(verdicts)
        return score_groups(groups, lambda prompt, response: next(judged))

    def answer(self, completion: Completion) -> str | None:
        """None: the function scores whole responses and tells no answers, so there is no vote."""

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """None of them: what a reference means is up to the function."""
        return []

    def close(self) -> None:
        self.pool.close()
