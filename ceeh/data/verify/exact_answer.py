"""ExactAnswer: grades by a pattern whose group must equal the reference."""

import re
from collections.abc import Sequence

from ceeh.data.verify.base import NO_ANSWER, score_groups
from ceeh.data.verify.pool import RIGHT, UNREADABLE, WRONG
from ceeh.errors import ConfigError
from ceeh.types import Completion, Finish, Prompt, RolloutGroup, ScoredGroup, Verdict


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
        return score_groups(groups, self._judge)

    def answer(self, completion: Completion) -> str | None:
        found = self._find(completion.text) if completion.finish is Finish.STOP else None
        return None if found is None else normalize_integer(found)

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
        return RIGHT if normalize_integer(found) == normalize_integer(prompt.answer) else WRONG


def normalize_integer(answer: str) -> str:
    """Without surrounding space; an integer without plus sign and leading zeros."""
    answer = answer.strip()
    match = re.fullmatch(r"([+-]?)0*(\d+)", answer, re.ASCII)
    if match is None:
        return answer
    return ("-" if match[1] == "-" and match[2] != "0" else "") + match[2]
