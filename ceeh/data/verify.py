"""Is a response right? Verifiers turn groups into scored groups; outcomes are counted, not hidden.

An unfinished response is wrong whatever it holds: a parser would pick a lucky intermediate result.
"""

import logging
import math
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from numbers import Real
from typing import Protocol, runtime_checkable

from ceeh.component import Component, ConfigError
from ceeh.data.answers import boxed_answer, last_box, squeezed
from ceeh.data.plain import canonical, same
from ceeh.data.reading import Reading, reading
from ceeh.data.units import same_unit
from ceeh.data.verify_pool import FAILED, RIGHT, UNREADABLE, WRONG, WorkerPool
from ceeh.terminal import plain
from ceeh.types import Completion, Finish, Outcome, Prompt, RolloutGroup, ScoredGroup, Verdict

NO_ANSWER = Verdict(score=0.0, outcome=Outcome.NO_ANSWER)

logger = logging.getLogger(__name__)


@runtime_checkable
class Verifier(Protocol):
    """Scores rollouts; `close` releases what it holds and is harmless when called twice."""

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        """A scored group per group, in order."""
        ...

    def answer(self, completion: Completion) -> str | None:
        """The final answer in one spelling, for votes; None when unfinished or without an answer."""
        ...

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts whose reference cannot be read, so that no response could be found right."""
        ...

    def close(self) -> None: ...


def outcome_counts(scored: Iterable[ScoredGroup]) -> dict[str, int]:
    """Completions per outcome, every outcome named: ok, no_answer, timeout, error, unreadable."""
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

    def answer(self, completion: Completion) -> str | None:
        found = self._find(completion.text) if completion.finish is Finish.STOP else None
        return None if found is None else _plain(found)

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those with an empty reference; any other text may be what the pattern finds."""
        return [prompt for prompt in prompts if not prompt.answer.strip()]

    def close(self) -> None:
        pass

    def _find(self, response: str) -> str | None:
        found = None
        for match in self.pattern.finditer(response):
            found = match[1]
        return found

    def _judge(self, prompt: Prompt, response: str) -> Verdict:
        found = self._find(response)
        if found is None:
            return NO_ANSWER
        if not prompt.answer.strip():
            return UNREADABLE
        return RIGHT if _plain(found) == _plain(prompt.answer) else WRONG


class MathAnswer:
    r"""The last \boxed{} of the response against the reference, as mathematics.

    Numbers, words, lists and tuples are compared here, exactly (`ceeh.data.plain`). All else goes to
    math-verify, in `workers` processes of `memory_mib` each. What counts as right:

    - The last box wins, also after `\boxed{3}, \boxed{5}`: a list belongs in one box. A thinking
      block is left out once it is closed. An empty or open box and an unfinished response are no
      answer; one of more than 2,000 characters or 40 nested brackets, or with invisible or combining
      characters, is wrong.
    - Decimals and fractions are compared exactly: 0.333 is not 1/3, 10001 is not 10000. For an
      irrational reference a decimal must agree to six decimals and to one part in a million.
      1,000 = 1000, 1 1/2 = 1.5, 0.\overline{3} = 1/3, 1.2 \times 10^3 = 1.2e3 = 1200, 7 million.
    - 9\% is right for 9 (the sign is a unit) and for 0.09 (its value); 9 is wrong for 0.09.
    - A unit, and a base as in 12_8, may be left out. Two units of the table (`ceeh.data.units`) must
      be the same, and are not converted: 5 cm is neither 5 m nor 0.05 m. Degrees are a unit but
      within trigonometric functions: 90^\circ is 90, not \pi/2.
    - x = 5 is right for 5 and 5 for x = 5, y = 5 for neither x = 5 nor x = 6.
    - Several values are a list, with or without braces, in any order, each counted once; \pm 3 is
      3, -3. Fewer or more values are wrong. Tuples keep their order, which a list without brackets
      must match; intervals their brackets. An inequality is the interval of its variable.
    - Words, \text{} or not, are compared without case, four letters or more as such, fewer as a
      product of variables where neither side is \text{}. Lone letters, (A) or A, keep their case.
    - Matrices are compared by entry; a column vector is not a tuple. \log is the decimal logarithm.

    Left to math-verify, and wrong: `2x > 6` is not `x > 3`, two inequalities joined by "or" are no
    union, AB = BA, f' = f, 11:30 = 11/30.

    An answer that takes more than `timeout_seconds` of processor time ends with its process. A call
    lasts at most `stall_seconds` and one time limit longer than its distinct answers would at a tenth
    of the limit each; questions with slow answers come last, and what is then open is timed out.
    """

    def __init__(
        self,
        timeout_seconds: float = 5,
        workers: int = 2,
        memory_mib: int = 1024,
        stall_seconds: float = 30,
    ) -> None:
        for name, seconds in (
            ("timeout_seconds", timeout_seconds),
            ("stall_seconds", stall_seconds),
        ):
            if not 0 < seconds < math.inf:
                raise ConfigError(f"{name} must be greater than 0, got {seconds}")
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
        self.stall_seconds = stall_seconds
        self.pool = WorkerPool(
            workers=workers, timeout_seconds=timeout_seconds, memory_mib=memory_mib
        )

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        decisions = [[self._decide(group.prompt, c) for c in group.completions] for group in groups]
        open_pairs = list(
            dict.fromkeys(d for row in decisions for d in row if isinstance(d, tuple))
        )
        judged = dict(zip(open_pairs, self.pool.judge(open_pairs, self.stall_seconds), strict=True))
        return [
            ScoredGroup(
                group=group,
                verdicts=tuple(judged[d] if isinstance(d, tuple) else d for d in row),
            )
            for group, row in zip(groups, decisions, strict=True)
        ]

    def answer(self, completion: Completion) -> str | None:
        r"""The last box: 1/2 for 0.5 and \frac12, {1,2} for 2, 1; no unit, percent sign or name.

        Expressions are only freed of layout: math-verify is not asked which are equal.
        """
        found = boxed_answer(completion.text) if completion.finish is Finish.STOP else None
        given = None if found is None else reading(found)
        if given is None:
            return None
        return squeezed(given.latex) if given.plain is None else canonical(given.plain)

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those whose reference is not plain and not, to math-verify within its limits, itself.

        Only such are sent to the workers, which end afterwards: rollouts are a model's start away.
        """
        references = [_reference(prompt) for prompt in prompts]
        doubtful = list(dict.fromkeys(r.latex for r in references if r and r.plain is None))
        try:
            verdicts = self.pool.judge([(latex, latex) for latex in doubtful])
        finally:
            self.pool.close()
        bad = {latex for latex, v in zip(doubtful, verdicts, strict=True) if v != RIGHT}
        return [
            prompt
            for prompt, r in zip(prompts, references, strict=True)
            if r is None or (r.plain is None and r.latex in bad)
        ]

    def close(self) -> None:
        self.pool.close()

    def _decide(self, prompt: Prompt, completion: Completion) -> Verdict | tuple[str, str]:
        """The verdict, or the pair (reference, answer) that only math-verify can judge."""
        found = boxed_answer(completion.text) if completion.finish is Finish.STOP else None
        if found is None:
            return NO_ANSWER
        reference, given = _reference(prompt), reading(found)
        if reference is None:
            return UNREADABLE
        if given is None:
            return WRONG
        right = same(reference.plain, given.plain)
        if right is None and same_unit(reference.unit, given.unit):
            return reference.latex, given.latex
        return RIGHT if right else WRONG


def _reference(prompt: Prompt) -> Reading | None:
    return reading(last_box(prompt.answer) or prompt.answer)


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

    def answer(self, completion: Completion) -> str | None:
        """None: the function scores whole responses and tells no answers, so there is no vote."""

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """None of them: what a reference means is up to the function."""
        return []

    def close(self) -> None:
        pass

    def _judge(self, prompt: Prompt, response: str) -> Verdict:
        try:
            score = self.function(prompt, response)
            if not isinstance(score, Real) or not 0 <= float(score) <= 1:
                kind = type(score).__name__
                raise ValueError(f"the score must be a number in [0, 1], got {kind} {score!r:.40}")
            return Verdict(score=float(score), outcome=Outcome.OK)
        except Exception as error:  # the user's code: one faulty score must not end the run
            if not self._logged:
                logger.warning(
                    "verifier: %s failed on prompt '%s'; this and later failures score 0 and count"
                    " as errors\n%s",
                    self.class_path,
                    prompt.uid,
                    plain("".join(traceback.format_exception(error))),  # it may quote the response
                )
            self._logged = True
            return FAILED


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
