"""Groups to tensors: alignment of log-probs and tokens, groups of any size, refusals."""

from dataclasses import replace

import pytest
import torch

from ceeh.data.batch import collate
from ceeh.types import Completion, Finish, Outcome, Prompt, RolloutGroup, ScoredGroup, Verdict


def group(uid: str, prompt: tuple[int, ...], *responses: tuple[int, ...]) -> ScoredGroup:
    """Log-probs are minus the token ids; the first response is right."""
    completions = tuple(
        Completion(
            text="", token_ids=ids, logprobs=tuple(-float(i) for i in ids), finish=Finish.STOP
        )
        for ids in responses
    )
    verdicts = tuple(
        Verdict(score=float(i == 0), outcome=Outcome.OK) for i in range(len(responses))
    )
    made = Prompt(uid=uid, text=uid, answer="1", token_ids=prompt)
    rollouts = RolloutGroup(prompt=made, completions=completions, policy_version=5)
    return ScoredGroup(group=rollouts, verdicts=verdicts)


def test_rows_are_prompt_then_response_then_padding() -> None:
    batch = collate([group("a", (7, 8), (3,), (4, 5)), group("b", (6,), (9, 2, 1))], pad_token_id=0)
    assert batch.token_ids.tolist() == [[7, 8, 3, 0], [7, 8, 4, 5], [6, 9, 2, 1]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1]]
    assert batch.engine_logprobs.tolist() == [[0, 0, -3, 0], [0, 0, -4, -5], [0, -9, -2, -1]]
    assert batch.group.tolist() == [0, 0, 1]
    assert batch.lengths.tolist() == [1, 2, 3]
    assert batch.totals.tolist() == [3, 4, 4]
    assert batch.correct.tolist() == [True, False, True]
    assert batch.policy_version == 5
    assert [outcome.accuracy for outcome in batch.outcomes] == [0.5, 1.0]


def test_moving_a_batch_keeps_precision_and_signals() -> None:
    batch = collate([group("a", (7,), (3,))], pad_token_id=0)
    batch.signals["hard"] = torch.tensor([1.0])
    moved = batch.to("cpu")
    assert moved.engine_logprobs.dtype == torch.float32
    assert moved.signals["hard"].tolist() == [1.0]


def test_two_policy_versions_in_one_batch_are_refused() -> None:
    first, second = group("a", (7,), (3,)), group("b", (7,), (3,))
    stale = replace(second, group=replace(second.group, policy_version=4))
    with pytest.raises(ValueError, match=r"one policy version, got \[4, 5\]"):
        collate([first, stale], pad_token_id=0)


def test_a_prompt_without_completions_is_named() -> None:
    with pytest.raises(ValueError, match="prompt 'a' came back from the engine without"):
        collate([group("a", (7,))], pad_token_id=0)
