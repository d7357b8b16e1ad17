"""The types that travel: one per stage of the path from question to optimizer step. No torch here.

Axes: P prompts, R rollout rows, T tokens. Groups may differ in size: a row carries the index of its
prompt in `group`, and nothing relies on R = P x G or on the order of rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of a source.

    uid: unique within a source and stable across runs; the key of every table kept per question.
    text: the question, as the user's message holds it. answer: the reference answer.
    metadata: other columns of the source by name, such as a difficulty level.
    messages: the conversation up to the response as (role, content), the last one the user's; empty
    where the user's message is all there is. `text` then has all messages but the system's.
    """

    uid: str
    text: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def squeezed(self) -> str:
        """The text with each run of white space as one space; equal for duplicate questions."""
        return " ".join(self.text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Question):
    """A question ready for the engine.

    token_ids: the whole prompt, with instruction and chat template, as the engine reads it.
    """

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration(Question):
    """A question with a response to learn from, given without the end token."""

    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Prompt):
    """A demonstration ready for the model.

    response_ids: [T] of the response, with its end token.
    """

    response_ids: tuple[int, ...]


class Finish(StrEnum):
    """Why a completion ended: its end token, the token limit, or aborted by the engine."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class GradingOutcome(StrEnum):
    """What happened when a completion was graded, apart from whether it was correct."""

    OK = "ok"
    """Graded."""
    NO_ANSWER = "no_answer"
    """Truncated, or nothing where the answer belongs."""
    UNREADABLE = "unreadable"
    """The reference answer cannot be parsed, so no response is correct."""
    TIMEOUT = "timeout"
    """Failure: took too long."""
    ERROR = "error"
    """Failure: the verifier raised an exception."""
    INVALID = "invalid"
    """Failure: the score was not a number in [0, 1]."""
    DIED = "died"
    """Failure: the worker process died."""
    MEMORY = "memory"
    """Failure: the memory limit was exceeded."""


FAILURES = frozenset(
    (
        GradingOutcome.TIMEOUT,
        GradingOutcome.ERROR,
        GradingOutcome.INVALID,
        GradingOutcome.DIED,
        GradingOutcome.MEMORY,
    )
)
"""Outcomes in which grading itself failed; the score is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One response of the engine.

    text: the decoded response. token_ids: [T] of the response alone, with its end token.
    logprobs: [T] of these tokens in nats, by the engine, at the sampling temperature.
    finish: why it ended.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.logprobs), "one log-prob per token"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The completions of one prompt.

    policy_version: optimizer steps taken by the weights that sampled them.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    policy_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The grade of one completion.

    score: in [0, 1]; the completion is correct when it is 1. outcome: how the grading went.
    """

    score: float
    outcome: GradingOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutcome:
    """All that a signal may observe of a group: plain Python, cheap to gather over ranks.

    uid: of the prompt. These have one entry per completion: correct: the score is 1. lengths: response
    tokens. finished: ended with its end token.
    Known after the update, NaN before it and for groups that were not trained on: entropy: of the
    trainer's policy, nats per response token. hard: the signal `objective.hard_signal` of the step, NaN
    also where no callback writes it.
    """

    uid: str
    correct: tuple[bool, ...]
    lengths: tuple[int, ...]
    finished: tuple[bool, ...]
    entropy: float = math.nan
    hard: float = math.nan

    @property
    def accuracy(self) -> float:
        """Acc(x): the fraction of correct responses in the group."""
        return sum(self.correct) / len(self.correct)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A graded group. verdicts: one per completion, in their order."""

    group: RolloutGroup
    verdicts: tuple[Verdict, ...]

    def __post_init__(self) -> None:
        assert len(self.verdicts) == len(self.group.completions), "one verdict per completion"

    @property
    def outcome(self) -> GroupOutcome:
        completions = self.group.completions
        return GroupOutcome(
            uid=self.group.prompt.uid,
            correct=tuple(verdict.score == 1.0 for verdict in self.verdicts),
            lengths=tuple(len(completion.token_ids) for completion in completions),
            finished=tuple(completion.finish is Finish.STOP for completion in completions),
        )
