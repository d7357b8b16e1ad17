"""ExactAnswer: what a pattern finds must equal the reference."""

import re
from collections import deque
from collections.abc import Sequence

from ceeh.data.verify.base import CORRECT, INCORRECT, NO_ANSWER, UNREADABLE, with_verdicts
from ceeh.runtime.text import pattern_with_group
from ceeh.types import Completion, Finish, Prompt, RolloutGroup, ScoredGroup, Verdict


class ExactAnswer:
    """Compares group 1 of the last match of `pattern` with the reference; integers by value."""

    def __init__(self, pattern: str = r"so (\d{2})$") -> None:
        self.pattern = pattern_with_group(pattern, "pattern")

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        verdicts = (
            self._grade(g.prompt, completion) for g in groups for completion in g.completions
        )
        return with_verdicts(groups, verdicts)

    def answer(self, completion: Completion) -> str | None:
        if completion.finish is not Finish.STOP:
            return None
        last = deque(self.pattern.finditer(completion.text), maxlen=1)
        return normalize_integer(last[0][1]) if last and last[0][1] is not None else None

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those with an empty reference; the pattern may find any other text."""
        return [prompt for prompt in prompts if not prompt.answer.strip()]

    def close(self) -> None:
        pass

    def _grade(self, prompt: Prompt, completion: Completion) -> Verdict:
        answer = self.answer(completion)
        if answer is None:
            return NO_ANSWER
        if not prompt.answer.strip():
            return UNREADABLE
        return CORRECT if answer == normalize_integer(prompt.answer) else INCORRECT


def normalize_integer(answer: str) -> str:
    """Without surrounding space; an integer without plus sign and leading zeros."""
    answer = answer.strip()
    match = re.fullmatch(r"([+-]?)0*(\d+)", answer, re.ASCII)
    if match is None:
        return answer
    return ("-" if match[1] == "-" and match[2] != "0" else "") + match[2]
