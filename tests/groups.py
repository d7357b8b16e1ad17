"""Prompts, completions and graded groups, as short as a test can say them."""

from collections.abc import Sequence
from typing import Any

from ceeh.types import (
    Completion,
    Finish,
    GradingOutcome,
    Prompt,
    RolloutGroup,
    ScoredGroup,
    Verdict,
)


def make_prompt(
    uid: str = "p",
    token_ids: Sequence[int] = (3, 4, 5),
    *,
    text: str = "?",
    answer: str = "07",
    **metadata: Any,
) -> Prompt:
    return Prompt(uid=uid, text=text, answer=answer, token_ids=tuple(token_ids), metadata=metadata)


def make_completion(
    text: str = "",
    token_ids: Sequence[int] = (5, 1),
    logprobs: Sequence[float] = (),
    finish: Finish = Finish.STOP,
) -> Completion:
    """Log-probs that are not given are -0.5."""
    return Completion(
        text=text,
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs) or (-0.5,) * len(token_ids),
        finish=finish,
    )


def make_group(
    prompt: Prompt, completions: Sequence[Completion], policy_version: int = 0
) -> RolloutGroup:
    return RolloutGroup(
        prompt=prompt, completions=tuple(completions), policy_version=policy_version
    )


def make_scored(
    prompt: Prompt,
    completions: Sequence[Completion],
    scores: Sequence[float],
    policy_version: int = 0,
) -> ScoredGroup:
    verdicts = tuple(Verdict(score=float(score), outcome=GradingOutcome.OK) for score in scores)
    return ScoredGroup(group=make_group(prompt, completions, policy_version), verdicts=verdicts)
