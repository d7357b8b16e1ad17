"""Groups to tensors: every token, log-prob and mask lands where it belongs, for groups of any shape."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ceeh.data.batch import collate, equal_batches
from ceeh.types import ScoredGroup
from tests.groups import make_completion, make_prompt, make_scored

TOKENS = st.integers(0, 2**31 - 1)
LOGPROBS = st.floats(-1e4, 0.0, width=32)
RESPONSE = st.tuples(
    st.lists(st.tuples(TOKENS, LOGPROBS), min_size=1, max_size=7), st.sampled_from([0.0, 0.5, 1.0])
)
GROUPS = st.lists(
    st.tuples(st.lists(TOKENS, min_size=1, max_size=6), st.lists(RESPONSE, min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)
"""Token ids of a prompt; the (token, log-prob) pairs and the score of each response."""
ONE = [([(3, -3.0)], 1.0)]


def group(uid: str, prompt: Sequence[int], responses: Sequence, version: int = 5) -> ScoredGroup:
    """Each response is its (token, log-prob) pairs and its score."""
    completions = [
        make_completion("", [token for token, _ in pairs], [logprob for _, logprob in pairs])
        for pairs, _ in responses
    ]
    scores = [score for _, score in responses]
    return make_scored(make_prompt(uid, prompt), completions, scores, version)


def test_rows_are_prompt_then_response_then_padding() -> None:
    first = group("a", (7, 8), [([(3, -3.0)], 1.0), ([(4, -4.0), (5, -5.0)], 0.0)])
    second = group("b", (6,), [([(9, -9.0), (2, -2.0), (1, -1.0)], 1.0)])
    batch = collate([first, second], pad_token_id=0)
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
    batch = collate([group("a", (7,), ONE)], pad_token_id=0)
    batch.signals["hard"] = torch.tensor([1.0])
    moved = batch.to("cpu")
    assert moved.engine_logprobs.dtype == torch.float32
    assert moved.signals["hard"].tolist() == [1.0]


def test_two_policy_versions_in_one_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one policy version, got \[4, 5\]"):
        collate([group("a", (7,), ONE), group("b", (7,), ONE, 4)], pad_token_id=0)


QUICK = settings(max_examples=60, deadline=None, derandomize=True)


@QUICK
@given(shapes=GROUPS, pad=TOKENS)
def test_every_token_logprob_and_verdict_is_where_it_belongs(shapes: list, pad: int) -> None:
    groups = [group("q", *shape) for shape in shapes]
    batch = collate(groups, pad_token_id=pad)
    row = 0
    for index, scored in enumerate(groups):
        for completion, verdict in zip(scored.group.completions, scored.verdicts, strict=True):
            prompt, response = scored.group.prompt.token_ids, completion.token_ids
            rest = batch.token_ids.shape[1] - len(prompt) - len(response)
            assert batch.token_ids[row].tolist() == [*prompt, *response, *[pad] * rest]
            mask = [False] * len(prompt) + [True] * len(response) + [False] * rest
            assert batch.response_mask[row].tolist() == mask
            logprobs = [0.0] * len(prompt) + [*completion.logprobs] + [0.0] * rest
            assert batch.engine_logprobs[row].tolist() == logprobs
            assert batch.group[row] == index
            assert batch.scores[row] == verdict.score
            assert bool(batch.correct[row]) == (verdict.score == 1.0)
            assert batch.lengths[row] == len(response)
            assert batch.totals[row] == len(prompt) + len(response)
            row += 1
    assert row == len(batch.token_ids)


@QUICK
@given(shapes=GROUPS, data=st.data())
def test_order_and_padding_change_no_row(shapes: list, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shapes))))
    groups = [group("q", *shape) for shape in shapes]
    one = collate(groups, pad_token_id=0)
    other = collate([groups[index] for index in order], pad_token_id=7)
    first = [int((one.group == index).nonzero()[0]) for index in range(len(groups))]
    of_other = 0
    for index in order:
        for offset in range(len(groups[index].verdicts)):
            mine, total = first[index] + offset, int(one.totals[first[index] + offset])
            assert (
                one.token_ids[mine, :total].tolist() == other.token_ids[of_other, :total].tolist()
            )
            assert torch.equal(one.response_mask[mine], other.response_mask[of_other])
            assert torch.equal(one.engine_logprobs[mine], other.engine_logprobs[of_other])
            assert one.scores[mine] == other.scores[of_other]
            assert (other.token_ids[of_other, total:] == 7).all()
            of_other += 1
    alone = collate([groups[0]], pad_token_id=0)
    width = alone.token_ids.shape[1]
    assert torch.equal(alone.engine_logprobs, one.engine_logprobs[: len(alone.token_ids), :width])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_rank_has_the_same_number_of_batches_none_of_them_empty(
    world_size: int, size: int
) -> None:
    for total in range(world_size, 30):
        shares = [list(range(total))[rank::world_size] for rank in range(world_size)]
        ranks = [equal_batches(share, total, size=size, world_size=world_size) for share in shares]
        assert len({len(batches) for batches in ranks}) == 1, total
        for share, batches in zip(shares, ranks, strict=True):
            assert [item for batch in batches for item in batch] == share
            assert all(1 <= len(batch) <= size for batch in batches)
