"""MathAnswer: grades the boxed answer by value, in worker processes."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ceeh.data.verify.base import CORRECT, INCORRECT, NO_ANSWER, UNREADABLE, with_verdicts
from ceeh.data.verify.extract import boxed_answer, last_box, squeezed
from ceeh.data.verify.parse import ParsedAnswer, canonical, parse_answer, same
from ceeh.data.verify.pool import WorkerPool, check_limits
from ceeh.data.verify.units import same_unit
from ceeh.errors import ConfigError
from ceeh.types import Completion, Finish, Prompt, RolloutGroup, ScoredGroup, Verdict

MATH_GRADER = Path(__file__).with_name("math_grader.py")


class MathAnswer:
    r"""Compares the last \boxed{} of the response with the reference as mathematics.

    Numbers, words, lists and tuples are compared here, exactly (`ceeh.data.verify.parse`). Everything
    else goes to math-verify, in `workers` processes of `memory_mib` each. The rules:

    - The last box wins, also after `\boxed{3}, \boxed{5}`: a list belongs in one box. A closed thinking
      block is ignored. An empty or open box and an unfinished response are no answer. A box of more
      than 2,000 characters or 40 nested brackets, or with invisible or combining characters, is
      incorrect.
    - Decimals and fractions are compared exactly: 0.333 is not 1/3, 10001 is not 10000. For an
      irrational reference a decimal must agree to six decimals and to one part in a million.
      1,000 = 1000, 1 1/2 = 1.5, 0.\overline{3} = 1/3, 1.2 \times 10^3 = 1.2e3 = 1200, 7 million.
    - 9\% is correct for 9 (the sign is a unit) and for 0.09 (its value); 9 is incorrect for 0.09.
    - A unit, and a base as in 12_8, may be left out. Two units of the table (`ceeh.data.verify.units`)
      must be the same and are not converted: 5 cm is neither 5 m nor 0.05 m. Degrees are a unit except
      inside trigonometric functions: 90^\circ is 90, not \pi/2.
    - x = 5 is correct for 5, and 5 for x = 5; y = 5 is correct for neither x = 5 nor x = 6.
    - Several values are a list, with or without braces, in any order, each counted once; \pm 3 is
      3, -3. Fewer or more values are incorrect. Tuples keep their order, which a list without brackets
      must match; intervals keep their brackets. An inequality is the interval of its variable.
    - Words, in \text{} or not, are compared without case: with four letters or more as words, with
      fewer as a product of variables if neither side is in \text{}. Single letters, (A) or A, keep
      their case.
    - Matrices are compared by entry; a column vector is not a tuple. \log is the decimal logarithm.

    Known errors, left to math-verify: `2x > 6` is not `x > 3`, two inequalities joined by "or" are not
    a union, AB = BA, f' = f, 11:30 = 11/30.

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
            arguments={},
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

        Expressions lose their layout only; math-verify does not compare them.
        """
        box = final_box(completion)
        given = None if box is None else parse_answer(box)
        if given is None:
            return None
        return squeezed(given.latex) if given.plain is None else canonical(given.plain)

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those whose reference is not plain and that math-verify does not find equal to itself.

        The workers are needed for such references only. They end afterwards: the model loads next.
        """
        references = [parse_reference(prompt) for prompt in prompts]
        doubtful = list(dict.fromkeys(r.latex for r in references if r and r.plain is None))
        try:
            verdicts = self.pool.grade([(latex, latex) for latex in doubtful])
        finally:
            self.pool.close()
        bad = {latex for latex, v in zip(doubtful, verdicts, strict=True) if v != CORRECT}
        return [
            prompt
            for prompt, r in zip(prompts, references, strict=True)
            if r is None or (r.plain is None and r.latex in bad)
        ]

    def close(self) -> None:
        self.pool.close()

    def _decide(self, prompt: Prompt, completion: Completion) -> Verdict | tuple[str, str]:
        """The verdict, or the pair (reference, answer) that only math-verify can grade."""
        box = final_box(completion)
        if box is None:
            return NO_ANSWER
        reference, given = parse_reference(prompt), parse_answer(box)
        if reference is None:
            return UNREADABLE
        if given is None:
            return INCORRECT
        equal = same(reference.plain, given.plain)
        if equal is None and same_unit(reference.unit, given.unit):
            return reference.latex, given.latex
        return CORRECT if equal else INCORRECT


def final_box(completion: Completion) -> str | None:
    return boxed_answer(completion.text) if completion.finish is Finish.STOP else None


def parse_reference(prompt: Prompt) -> ParsedAnswer | None:
    return parse_answer(last_box(prompt.answer) or prompt.answer)
