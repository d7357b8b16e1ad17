"""Is a response right? Verifiers turn groups into scored groups; outcomes are counted, not hidden.

An unfinished response is wrong whatever it holds: a parser would pick a lucky intermediate result.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from numbers import Real
from typing import Protocol, runtime_checkable

from ceeh.component import Component, ConfigError
from ceeh.data.verify_pool import FAILED, RIGHT, WRONG, WorkerPool
from ceeh.types import Completion, Finish, Outcome, Prompt, RolloutGroup, ScoredGroup, Verdict

NO_ANSWER = Verdict(score=0.0, outcome=Outcome.NO_ANSWER)
MAX_ANSWER_CHARACTERS = 2000

logger = logging.getLogger(__name__)


@runtime_checkable
class Verifier(Protocol):
    """Scores rollouts; `close` releases what it holds and is harmless when called twice."""

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        """A scored group per group, in order."""
        ...

    def close(self) -> None: ...


def outcome_counts(scored: Iterable[ScoredGroup]) -> dict[str, int]:
    """Completions per outcome, every outcome named: ok, no_answer, timeout, error."""
    counts = Counter(verdict.outcome for group in scored for verdict in group.verdicts)
    return {outcome.value: counts[outcome] for outcome in Outcome}


class ExactAnswer:
    """Group 1 of the last match of `pattern` against the reference; integers by their value."""

    def __init__(self, pattern: str = r"so (\d{2})$") -> None:
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"pattern '{pattern}' is not a regular expression ({error})"
            ) from error
        if not self.pattern.groups:
            raise ConfigError(f"pattern '{pattern}' must have a group (...) around the answer")

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        return _score(groups, self._judge)

    def close(self) -> None:
        pass

    def _judge(self, prompt: Prompt, response: str) -> Verdict:
        found = [match[1] for match in self.pattern.finditer(response)]
        if not found or found[-1] is None:
            return NO_ANSWER
        return RIGHT if _plain(found[-1]) == _plain(prompt.answer) else WRONG


class MathAnswer:
    r"""The last \boxed{} of the response against the reference, as mathematics.

    Integers, decimals and fractions are compared exactly, here; everything else by math-verify in
    `workers` processes of `memory_mib` each. An answer that takes more than `timeout_seconds` of
    processor time ends with its process (outcome timeout). A crash is an error, and so is a
    reference that math-verify cannot read. An answer of more than MAX_ANSWER_CHARACTERS is wrong,
    and not parsed.

    math-verify 0.9 reads 9 as equal to 9%, and \log as the decimal logarithm.
    """

    def __init__(
        self, timeout_seconds: float = 5, workers: int = 2, memory_mib: int = 1024
    ) -> None:
        if not 0 < timeout_seconds < math.inf:
            raise ConfigError(f"timeout_seconds must be greater than 0, got {timeout_seconds}")
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        if memory_mib < 256:
            raise ConfigError(
                f"memory_mib must be at least 256 (sympy alone takes 100), got {memory_mib}"
            )
        if find_spec("math_verify") is None:
            raise ConfigError(
                "math-verify is not installed; pip install 'math-verify[antlr4_13_2]>=0.9,<0.10'"
            )
        self.pool = WorkerPool(
            workers=workers, timeout_seconds=timeout_seconds, memory_mib=memory_mib
        )

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        decisions = [[self._decide(group.prompt, c) for c in group.completions] for group in groups]
        open_pairs = list(
            dict.fromkeys(d for row in decisions for d in row if isinstance(d, tuple))
        )
        judged = dict(zip(open_pairs, self.pool.judge(open_pairs), strict=True))
        return [
            ScoredGroup(
                group=group,
                verdicts=tuple(judged[d] if isinstance(d, tuple) else d for d in row),
            )
            for group, row in zip(groups, decisions, strict=True)
        ]

    def close(self) -> None:
        self.pool.close()

    def _decide(self, prompt: Prompt, completion: Completion) -> Verdict | tuple[str, str]:
        """The verdict, or the pair (reference, answer) that only math-verify can judge."""
        answer = boxed_answer(completion.text) if completion.finish is Finish.STOP else None
        if answer is None:
            return NO_ANSWER
        if len(answer) > MAX_ANSWER_CHARACTERS:
            return WRONG
        reference = last_box(prompt.answer) or prompt.answer
        exact, given = as_number(reference), as_number(answer)
        if exact is None or given is None:
            return reference, answer
        return RIGHT if exact == given else WRONG


class RewardFunction:
    """A user's `(prompt: Prompt, response: str) -> float` in [0, 1], asked of finished responses.

    `class_path` is `package.module.function` or `path/to/file.py:function`. An exception, or
    anything but a finite number in [0, 1], is an error with score 0; the first one is logged.
    """

    def __init__(self, class_path: str) -> None:
        self.class_path = class_path
        self.function: Callable[[Prompt, str], object] = Component(class_path)._import("init_args")
        if not callable(self.function):
            raise ConfigError(
                f"init_args.class_path: '{class_path}' must be a function of prompt and response"
            )
        self._logged = False

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        return _score(groups, self._judge)

    def close(self) -> None:
        pass

    def _judge(self, prompt: Prompt, response: str) -> Verdict:
        try:
            score = self.function(prompt, response)
            if not isinstance(score, Real) or not 0 <= float(score) <= 1:
                kind = type(score).__name__
                raise ValueError(f"the score must be a number in [0, 1], got {kind} {score!r:.40}")
            return Verdict(score=float(score), outcome=Outcome.OK)
        except Exception:  # the user's code: one faulty score must not end the run
            if not self._logged:
                logger.warning(
                    "verifier: %s failed on prompt '%s'; this and later failures score 0 and count"
                    " as errors",
                    self.class_path,
                    prompt.uid,
                    exc_info=True,
                )
            self._logged = True
            return FAILED


def boxed_answer(response: str) -> str | None:
    r"""The inside of the last \boxed{}, after a closed thinking block; None without one."""
    return last_box(response.rpartition("</think>")[2])


def last_box(text: str) -> str | None:
    r"""The inside of the last \boxed{...}, up to its own closing brace; None if open or empty."""
    start = text.rfind("\\boxed{") + len("\\boxed{")
    if start < len("\\boxed{"):
        return None
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : match.start()].strip() or None
    return None


_DECIMAL = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?", re.ASCII)
_FRACTION = re.compile(
    r"([+-]?)(?:\\[dt]?frac(?:\{([+-]?\d+)\}\{(\d+)\}|(\d)(\d))|(\d+)/(\d+))", re.ASCII
)


def as_number(text: str) -> Fraction | None:
    """An integer, decimal (thousands set off by commas) or fraction in LaTeX or a/b; else None."""
    text = text.strip().strip("$").replace("\\!", "").replace("{,}", ",").replace("\u2212", "-")
    text = text.strip().removesuffix(".")
    if len(text) > 100:
        return None
    if any(character in "0123456789" for character in text) and _DECIMAL.fullmatch(text):
        return Fraction(text.replace(",", ""))
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    numerator, denominator = (int(part) for part in match.groups()[1:] if part is not None)
    if denominator == 0:
        return None
    return Fraction(-numerator if match[1] == "-" else numerator, denominator)


def _plain(answer: str) -> str:
    """Without surrounding space; an integer without plus sign and leading zeros."""
    answer = answer.strip()
    match = re.fullmatch(r"([+-]?)0*(\d+)", answer, re.ASCII)
    if match is None:
        return answer
    return ("-" if match[1] == "-" and match[2] != "0" else "") + match[2]


def _score(
    groups: Sequence[RolloutGroup], judge: Callable[[Prompt, str], Verdict]
) -> list[ScoredGroup]:
    return [
        ScoredGroup(
            group=group,
            verdicts=tuple(
                judge(group.prompt, completion.text)
                if completion.finish is Finish.STOP
                else NO_ANSWER
                for completion in group.completions
            ),
        )
        for group in groups
    ]
