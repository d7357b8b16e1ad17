"""RewardFunction: scores responses with a user's function, which runs in worker processes only."""

import importlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ceeh.data.verify.base import NO_ANSWER, with_verdicts
from ceeh.data.verify.pool import WorkerPool, check_limits
from ceeh.errors import RESUME, ConfigError
from ceeh.runtime.text import escape
from ceeh.types import (
    FAILURES,
    Completion,
    Finish,
    GradingOutcome,
    Prompt,
    RolloutGroup,
    ScoredGroup,
    Verdict,
)

REWARD_GRADER = Path(__file__).with_name("reward_grader.py")
WALL_FACTOR, MAX_CHUNK = 3, 64
WINDOW, MIN_WINDOW = 256, 32
MAX_CHARACTERS = 300

logger = logging.getLogger(__name__)


class RewardFunction:
    """Scores finished responses with a user's `(prompt: Prompt, response: str) -> float` in [0, 1].

    `class_path` is `package.module.function` or `path/to/file.py:function`, called with `init_args` as
    further keywords; or a class, built with `init_args`, whose instances are called. In Python it may
    be a function that can be imported by its module and name. Only the worker processes import it:
    `workers` of `memory_mib` each (None: no limit, for what reserves more address space than it uses,
    such as CUDA). State that it keeps between answers is private to a process and may be lost at any
    time; what it prints is discarded.

    An exception, a result that is not one number in [0, 1], more than `timeout_seconds` of CPU time or
    three times as much wall time, too much memory, or the end of its process costs one answer: it
    scores 0 and is counted by kind, and the first of each kind is logged. The run ends when more than
    `max_failed_fraction` of the last answers failed (those of a call, at least 256).
    `stall_seconds` limits a call as in MathAnswer.
    Raises ConfigError if it cannot be imported or that takes more than `start_seconds`.
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
        path = class_path if isinstance(class_path, str) else import_path(class_path)
        seconds = {"timeout": timeout_seconds, "stall": stall_seconds, "start": start_seconds}
        check_limits(workers, memory_mib, 64, **seconds)
        self.stall_seconds = stall_seconds
        self.failures = FailureWatch(path, max_failed_fraction)
        self.pool = WorkerPool(
            grader=REWARD_GRADER,
            arguments={
                "class_path": path,
                "init_args": init_args or {},
                "sys_path": [str(Path(folder).absolute()) for folder in sys.path],
            },
            size=workers,
            timeout_seconds=timeout_seconds,
            memory_mib=memory_mib,
            wall_factor=WALL_FACTOR,
            start_seconds=start_seconds,
            max_chunk=MAX_CHUNK,
            question=lambda task: task[0].uid,
            start_error=lambda words: ConfigError(f"init_args.class_path: '{path}': {words}"),
        )
        with closing(self.pool):  # the model loads before the first rollout
            self.pool.check()

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        completions = [(group.prompt, c) for group in groups for c in group.completions]
        tasks = [(prompt, c.text) for prompt, c in completions if c.finish is Finish.STOP]
        verdicts = self.pool.grade(tasks, self.stall_seconds)
        faults = sorted(self.pool.faults.items(), key=lambda fault: fault[1])
        self.failures.observe(
            verdicts, {kind: (tasks[n][0].uid, said) for kind, (n, said) in faults}
        )
        graded = iter(verdicts)
        return with_verdicts(
            groups, (next(graded) if c.finish is Finish.STOP else NO_ANSWER for _, c in completions)
        )

    def answer(self, completion: Completion) -> str | None:
        """None: the function scores whole responses, so there is no answer to vote on."""

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Always empty: only the function knows what a reference means."""
        return []

    def close(self) -> None:
        self.pool.close()


class FailureWatch:
    """Logs the first failure of each kind, and ends a run in which too many of the last answers failed.

    The last answers are those of a call, and earlier ones up to WINDOW in all; at least MIN_WINDOW.
    """

    def __init__(self, name: str, max_failed_fraction: float) -> None:
        if not 0 <= max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction must be in [0, 1], got {max_failed_fraction}")
        self.name = name
        self.max_failed_fraction = max_failed_fraction
        self.first: dict[GradingOutcome, tuple[str, str]] = {}
        self.last: list[GradingOutcome] = []

    def observe(
        self, verdicts: Sequence[Verdict], faults: Mapping[GradingOutcome, tuple[str, str]]
    ) -> None:
        """Takes a call's verdicts and the first fault of each kind: the prompt's uid, a description.

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
        if len(self.last) < MIN_WINDOW or share <= self.max_failed_fraction:
            return
        kinds = ", ".join(f"{count} {kind.value}" for kind, count in failed.most_common())
        kind, (uid, words) = next(iter(self.first.items()))
        raise ConfigError(
            f"verifier.init_args.max_failed_fraction: {self.name} failed on {share:.1%} of the last"
            f" {len(self.last)} answers ({kinds}); at most {self.max_failed_fraction:.1%} may fail."
            f" The first failure, on prompt '{uid}' ({kind.value}): {words[-MAX_CHARACTERS:]}\n"
            f"Fix it or raise the limit, {RESUME}"
        )


def import_path(function: Callable[..., object]) -> str:
    """`package.module.function`, by which another process finds `function`.

    Raises ConfigError for a lambda, a closure, or a function of the main module.
    """
    module, name = (getattr(function, key, "") for key in ("__module__", "__qualname__"))
    try:
        found = name and getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        found = None
    if found is not function or module == "__main__":
        raise ConfigError(
            f"class_path: the worker processes cannot import {function!r:.80}; define it at the top"
            " level of a module or file and pass package.module.function or path/to/file.py:function,"
            " with its settings as init_args"
        )
    return f"{module}.{name}"
