"""The types that travel: one per stage of the path from prompt to optimizer step.

Axes: P prompts, R rollout rows, T tokens. Groups may differ in size: a row carries the index of its
prompt in `group`, and nothing relies on R = P x G or on the order of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A question ready for the engine. `uid` is stable across runs: the key of every table."""

    uid: str
    text: str
    answer: str
    token_ids: tuple[int, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The user's message `text`, the reference `answer`, and what else is known of it.

    `uid` is stable across runs: the key of every table kept per question.
    """

    uid: str
    text: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def squeezed(self) -> str:
        """The text with every run of white space as one space: what makes two questions the same."""
        return " ".join(self.text.split())


class Finish(StrEnum):
    """Why a completion ended: its own end token, the token limit, or the engine gave it up."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class Outcome(StrEnum):
    """How the verifier fared with one completion, apart from whether the answer was right.

    OK: judged. NO_ANSWER: unfinished, or nothing where the answer belongs. UNREADABLE: the reference
    cannot be read, so nothing is right. The rest are FAILURES of the judging, with score 0. TIMEOUT:
    given up as too slow. ERROR: it raised an exception. INVALID: it returned no number in [0, 1].
    DIED: its process ended. MEMORY: it wanted more than it may have.
    """

    OK = "ok"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    ERROR = "error"
    INVALID = "invalid"
    DIED = "died"
    MEMORY = "memory"
    UNREADABLE = "unreadable"


FAILURES = frozenset(
    (Outcome.TIMEOUT, Outcome.ERROR, Outcome.INVALID, Outcome.DIED, Outcome.MEMORY)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One response; `logprobs` (nats) are the engine's, at the sampling temperature, one per token."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.logprobs), "a log-prob per token"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The completions of one prompt, sampled by the weights after `policy_version` optimizer steps."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    policy_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`score` in [0, 1]; a completion is correct when its score is 1."""

    score: float
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutcome:
    """All that a signal may observe of a group; plain Python, cheap to gather over ranks.

    `lengths` are response lengths in tokens; `finished` is True where the response ended by itself.
    """

    uid: str
    correct: tuple[bool, ...]
    lengths: tuple[int, ...]
    finished: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """Acc(x): the share of correct responses in the group."""
        return sum(self.correct) / len(self.correct)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with a verdict per completion."""

    group: RolloutGroup
    verdicts: tuple[Verdict, ...]

    def __post_init__(self) -> None:
        assert len(self.verdicts) == len(self.group.completions), "a verdict per completion"

    @property
    def outcome(self) -> GroupOutcome:
        return GroupOutcome(
            uid=self.group.prompt.uid,
            correct=tuple(verdict.score == 1.0 for verdict in self.verdicts),
            lengths=tuple(len(completion.token_ids) for completion in self.group.completions),
            finished=tuple(
                completion.finish is Finish.STOP for completion in self.group.completions
            ),
        )
