"""From scored groups to tensors: one RolloutBatch per rollout step."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.types import GroupOutcome, ScoredGroup

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """One rollout step as tensors, right-padded: prompt tokens, then response tokens, then padding.

    response_mask: True on response tokens. engine_logprobs: nats; position t belongs to token t given
    the tokens before it, 0 outside `response_mask`. group: index of a row's prompt in `groups`.
    scores: in [0, 1]. correct: the score is 1. lengths: response tokens.
    policy_version: optimizer steps taken by the weights that sampled the batch.
    timings: seconds per phase of the rollouts. ready_at: the time after them, by `time.perf_counter`.
    dropped: groups that dynamic sampling generated and left out, in `sampling_rounds` rounds.
    probe: groups of the probe questions of all ranks, by the same weights; not among the rows.
    question_indices: positions of the prompts among the held-out questions, empty in training.
    signals: name -> [P], written by signal callbacks before the step; empty when the loader yields the
    batch.
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
    probe: tuple[GroupOutcome, ...] = ()
    sampling_rounds: int = 1
    question_indices: tuple[int, ...] = ()
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
            each.name: value.to(device, **kwargs)
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), Tensor)
        }
        signals = {name: value.to(device, **kwargs) for name, value in self.signals.items()}
        return replace(self, **tensors, signals=signals)


def collate(
    groups: Sequence[ScoredGroup], *, pad_token_id: int, timings: Mapping[str, float] | None = None
) -> RolloutBatch:
    """The rows of all groups, each prompt + response, right-padded to the longest.

    Raises ValueError when the groups come from different policy versions.
    """
    begin = time.perf_counter()
    versions = {scored.group.policy_version for scored in groups}
    if len(versions) != 1:
        raise ValueError(f"one batch must come from one policy version, got {sorted(versions)}")
    rows = [
        (index, scored.group.prompt.token_ids, completion, verdict)
        for index, scored in enumerate(groups)
        for completion, verdict in zip(scored.group.completions, scored.verdicts, strict=True)
    ]
    width = max(len(prompt) + len(completion.token_ids) for _, prompt, completion, _ in rows)
    token_ids = torch.full((len(rows), width), pad_token_id)
    response_mask = torch.zeros(len(rows), width, dtype=torch.bool)
    engine_logprobs = torch.zeros(len(rows), width)
    for row, (_, prompt, completion, _) in enumerate(rows):
        start, stop = len(prompt), len(prompt) + len(completion.token_ids)
        token_ids[row, :stop] = torch.tensor(prompt + completion.token_ids)
        response_mask[row, start:stop] = True
        engine_logprobs[row, start:stop] = torch.tensor(completion.logprobs)
    now = time.perf_counter()
    return RolloutBatch(
        token_ids=token_ids,
        response_mask=response_mask,
        engine_logprobs=engine_logprobs,
        group=torch.tensor([index for index, *_ in rows]),
        scores=torch.tensor([verdict.score for *_, verdict in rows]),
        correct=torch.tensor([verdict.score == 1.0 for *_, verdict in rows]),
        lengths=response_mask.sum(1),
        groups=tuple(groups),
        policy_version=versions.pop(),
        timings=dict(timings or {}) | {"collate": now - begin},
        ready_at=now,
    )


def equal_batches(own: Sequence[T], total: int, *, size: int, world_size: int) -> list[Sequence[T]]:
    """A rank's share of `total` items, `size` at a time, in as many batches as every other rank has.

    The shares differ by one item, for which another rank may need one more batch: then the last one, a full
    one, is cut in two. Of several ranks `size` must be at least 2.
    """
    batches = [own[start : start + size] for start in range(0, len(own), size)]
    largest_share = -(-total // world_size)
    if len(batches) * size < largest_share:
        last = batches.pop()
        batches += [last[:1], last[1:]]
    return batches
