"""MathAnswer: grades the boxed answer by value, in worker processes."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ceeh.data.verify.base import CORRECT, INCORRECT, NO_ANSWER, UNREADABLE, with_verdicts
from ceeh.data.verify.canonical import canonical
from ceeh.data.verify.compare import UndecidedError, exactly, same
from ceeh.data.verify.expressions import Expr, UnreadError, num, value_of
from ceeh.data.verify.factors import MAX_DIGITS
from ceeh.data.verify.pool import WorkerPool, check_limits
from ceeh.data.verify.syntax import read
from ceeh.data.verify.tokens import MAX_ANSWER_CHARACTERS, spelling, tokenize
from ceeh.errors import ConfigError
from ceeh.types import Completion, Finish, Prompt, RolloutGroup, ScoredGroup, Verdict

MAX_TEXT_CHARACTERS = 200
MATH_GRADER = Path(__file__).with_name("math_grader.py")
_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


class MathAnswer:
    r"""Compares the last \boxed{} of the response with the reference as mathematics.

    Each token of an answer is read as mathematics or as a unit of a closed list, or the answer is
    unread: nothing else is dropped. An unread answer is correct only if its text equals the reference
    (but for space, layout, fonts and the case of words), and so is any answer to an unread reference.
    `docs/verifier.md` lists what equals what.

    Numbers, words, lists, tuples, intervals and sets are compared here, exactly. Where expressions
    need computer algebra, math-verify compares them in `workers` processes of `memory_mib` each.

    The last box wins, also after `\boxed{3}, \boxed{5}`: a list belongs in one box. A closed thinking
    block is ignored. An empty or open box and an unfinished response are no answer. A box of more than
    2,000 characters or 40 nested brackets, or with invisible or combining characters, is incorrect.

    An answer that takes more than `timeout_seconds` of CPU time ends with its process. A call lasts at
    most `stall_seconds` and one time limit longer than its distinct answers would at a tenth of the
    limit each. Questions with slow answers come last; what is still open at the end times out.
    """

    def __init__(
        self,
        timeout_seconds: float = 5,
        workers: int = 2,
        memory_mib: int = 1024,
        stall_seconds: float = 30,
    ) -> None:
        check_limits(workers, memory_mib, 256, timeout=timeout_seconds, stall=stall_seconds)
        if find_spec("math_verify") is None:
            raise ConfigError(
                "math-verify is not installed; pip install 'math-verify[antlr4_13_2]>=0.9,<0.10'"
            )
        self.stall_seconds = stall_seconds
        self.pool = WorkerPool(
            grader=MATH_GRADER,
            arguments={"sys_path": sys.path},
            size=workers,
            timeout_seconds=timeout_seconds,
            memory_mib=memory_mib,
        )

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        decisions = [
            self._decide(g.prompt, completion) for g in groups for completion in g.completions
        ]
        pairs = list(dict.fromkeys(d for d in decisions if isinstance(d, tuple)))
        graded = dict(zip(pairs, self.pool.grade(pairs, self.stall_seconds), strict=True))
        return with_verdicts(groups, (graded[d] if isinstance(d, tuple) else d for d in decisions))

    def answer(self, completion: Completion) -> str | None:
        r"""The last box: 1/2 for 0.5 and \frac12, {1,2} for 2, 1; no unit, percent sign or name.

        Sums and products are sorted; computer algebra does not compare them.
        """
        box = final_box(completion)
        given = None if box is None else parse_answer(box)
        return None if given is None else given.canonical

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those whose reference is empty, too long, or with characters that cannot be seen.

        So is a text of more than 200 characters that is not read: no answer would equal a solution.
        """
        return [prompt for prompt in prompts if parse_reference(prompt) is None]

    def close(self) -> None:
        self.pool.close()

    def _decide(self, prompt: Prompt, completion: Completion) -> Verdict | tuple[Expr, Expr]:
        """The verdict, or the two values that only computer algebra can compare."""
        box = final_box(completion)
        if box is None:
            return NO_ANSWER
        reference, given = parse_reference(prompt), parse_answer(box)
        if reference is None:
            return UNREADABLE
        if given is None:
            return INCORRECT
        if reference.spelling == given.spelling:
            return CORRECT
        if reference.value is None or given.value is None:
            return INCORRECT
        try:
            return CORRECT if same(reference.value, given.value, exactly) else INCORRECT
        except UndecidedError:
            return reference.value, given.value
        except UnreadError:
            return INCORRECT


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAnswer:
    """`value` is None if the answer cannot be read as mathematics."""

    spelling: str
    value: Expr | None

    @property
    def canonical(self) -> str:
        if self.value is None:
            return self.spelling
        try:
            return canonical(self.value)
        except UnreadError:
            return self.spelling


def parse_answer(text: str) -> ParsedAnswer | None:
    """None if it cannot be an answer: empty, too long, or with characters that cannot be seen."""
    # The cache holds the texts, so they must be short.
    return _parse_short(text) if len(text) <= MAX_ANSWER_CHARACTERS else None


@lru_cache(maxsize=4096)
def _parse_short(text: str) -> ParsedAnswer | None:
    if text.isdigit() and text.isascii() and len(text) <= MAX_DIGITS:  # the same, faster
        return ParsedAnswer(spelling=text, value=value_of(num(int(text))))
    tokens = tokenize(text)
    if tokens is None:
        return None
    try:
        value = read(tokens)
    except (UnreadError, RecursionError):
        value = None
    return ParsedAnswer(spelling=spelling(tokens), value=value)


def parse_reference(prompt: Prompt) -> ParsedAnswer | None:
    """None if it cannot be an answer, or is text so long that it is a solution, not an answer."""
    parsed = parse_answer(last_box(prompt.answer) or prompt.answer)
    if parsed is None or len(parsed.spelling) <= MAX_TEXT_CHARACTERS:
        return parsed
    return None if parsed.value is None or parsed.value[0] == "words" else parsed


def final_box(completion: Completion) -> str | None:
    r"""The content of the last \boxed{} after a closed thinking block; None if unfinished or without one."""
    return boxed_answer(completion.text) if completion.finish is Finish.STOP else None


def boxed_answer(response: str) -> str | None:
    r"""The content of the last \boxed{} after a closed thinking block; None without one."""
    return last_box(response.rpartition("</think>")[2])


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed{...} up to its closing brace; None if open or empty."""
    start = None
    for match in _BOX.finditer(text):
        start = match.end()
    if start is None:
        return None
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : match.start()].strip() or None
    return None
