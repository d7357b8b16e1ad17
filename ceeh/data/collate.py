"""Scored groups to tensors: one RolloutBatch per rollout step."""

import time
from collections.abc import Mapping, Sequence

import torch

from ceeh.types import RolloutBatch, ScoredGroup


def collate(
    groups: Sequence[ScoredGroup], *, pad_token_id: int, timings: Mapping[str, float] | None = None
) -> RolloutBatch:
    """Rows of all groups, each prompt + response, padded on the right to the longest.

    Raises ValueError when the groups were sampled by different policy versions or one has no completion.
    """
    begin = time.perf_counter()
    versions = {scored.group.policy_version for scored in groups}
    if len(versions) != 1:
        raise ValueError(f"one batch must come from one policy version, got {sorted(versions)}")
    empty = [scored.group.prompt.uid for scored in groups if not scored.group.completions]
    if empty:
        raise ValueError(f"prompt '{empty[0]}' came back from the engine without a completion")
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
