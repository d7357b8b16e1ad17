"""Is a response right? Verifiers turn groups into scored groups; outcomes are counted, not hidden.

An unfinished response is wrong whatever it holds: a parser would pick a lucky intermediate result.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from ceeh.types import Completion, Finish, Outcome, Prompt, RolloutGroup, ScoredGroup, Verdict

NO_ANSWER = Verdict(score=0.0, outcome=Outcome.NO_ANSWER)


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
    """Completions per outcome, every outcome named."""
    counts = Counter(verdict.outcome for group in scored for verdict in group.verdicts)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def score_groups(
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
