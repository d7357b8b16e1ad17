"""Is a response correct? Verifiers turn groups into scored groups and count every outcome.

An unfinished response has no answer, whatever it holds: a parser could pick a lucky intermediate result.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol, runtime_checkable

from ceeh.types import Completion, GradingOutcome, Prompt, RolloutGroup, ScoredGroup, Verdict

CORRECT = Verdict(score=1.0, outcome=GradingOutcome.OK)
INCORRECT = Verdict(score=0.0, outcome=GradingOutcome.OK)
NO_ANSWER = Verdict(score=0.0, outcome=GradingOutcome.NO_ANSWER)
UNREADABLE = Verdict(score=0.0, outcome=GradingOutcome.UNREADABLE)


@runtime_checkable
class Verifier(Protocol):
    """Scores rollouts. `close` releases its resources and is harmless when called twice."""

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        """A scored group per group, in order."""
        ...

    def answer(self, completion: Completion) -> str | None:
        """The final answer in one spelling, for votes; None when unfinished or without an answer."""
        ...

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts whose reference cannot be read, so that no response could be correct."""
        ...

    def close(self) -> None: ...


def with_verdicts(groups: Sequence[RolloutGroup], verdicts: Iterable[Verdict]) -> list[ScoredGroup]:
    """Scored groups from a verdict per completion, in the order of the groups."""
    each = iter(verdicts)
    return [
        ScoredGroup(group=group, verdicts=tuple(islice(each, len(group.completions))))
        for group in groups
    ]


def outcome_counts(scored: Iterable[ScoredGroup]) -> dict[str, int]:
    """Completions per outcome, with every outcome listed."""
    counts = Counter(verdict.outcome for group in scored for verdict in group.verdicts)
    return {outcome.value: counts[outcome] for outcome in GradingOutcome}
