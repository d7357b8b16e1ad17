"""The types that travel: one per stage of the path from prompt to optimiser step.

Axes: P prompts, R rollout rows, T tokens. Groups may differ in size: a row carries the index of its
prompt in `group`, and nothing relies on R = P x G or on the order of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.prompt import Prompt


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
    """The completions of one prompt, sampled by the weights after `policy_version` optimiser steps."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """One rollout step as tensors, right-padded: prompt tokens, then response tokens, then padding.

    Position t of `engine_logprobs` belongs to token t (given the tokens before it) and is zero outside
    `response_mask`. `signals` is the meeting place of callbacks and objective: name -> [P], written by
    signal callbacks before the step, empty when the batch leaves the loader. `dropped` are the groups
    that dynamic sampling drew and left out, after `sampling_rounds` rounds of generation. `timings` are
    seconds of the rollouts' phases, `ready_at` the moment after them by `time.perf_counter`.
    """

    token_ids: Int[Tensor, "R T"]
    response_mask: Bool[Tensor, "R T"]
    engine_logprobs: Float[Tensor, "R T"]
    group: Int[Tensor, " R"]
    scores: Float[Tensor, " R"]
    correct: Bool[Tensor, " R"]
    lengths: Int[Tensor, " R"]
    groups: tuple[ScoredGroup, ...]
    policy_version: int
    timings: Mapping[str, float] = field(default_factory=dict)
    dropped: tuple[GroupOutcome, ...] = ()
    sampling_rounds: int = 1
    ready_at: float = 0.0
    signals: dict[str, Float[Tensor, " P"]] = field(default_factory=dict)

    @property
    def num_prompts(self) -> int:
        return len(self.groups)

    @property
    def outcomes(self) -> list[GroupOutcome]:
        return [scored.outcome for scored in self.groups]

    @property
    def totals(self) -> Int[Tensor, " R"]:
        """Prompt plus response tokens of each row."""
        positions = torch.arange(1, self.token_ids.shape[1] + 1, device=self.token_ids.device)
        return (self.response_mask * positions).amax(1)

    def to(self, device: torch.device | str, **kwargs: Any) -> "RolloutBatch":
        """A copy on `device`; floating tensors keep their precision."""
        tensors = {
            name: value.to(device, **kwargs)
            for name in (
                "token_ids",
                "response_mask",
                "engine_logprobs",
                "group",
                "scores",
                "correct",
                "lengths",
            )
            if isinstance(value := getattr(self, name), Tensor)
        }
        signals = {name: value.to(device, **kwargs) for name, value in self.signals.items()}
        return replace(self, **tensors, signals=signals)
