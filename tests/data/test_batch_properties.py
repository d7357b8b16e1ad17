"""Ragged groups of any shape: every token, log-prob and mask lands where it belongs."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ceeh.data.batch import collate
from ceeh.types import Completion, Finish, Outcome, Prompt, RolloutGroup, ScoredGroup, Verdict

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
"""Token ids of a prompt; of each response its (token, log-prob) pairs and its score."""


def made(shapes: list) -> list[ScoredGroup]:
    groups = []
    for prompt, responses in shapes:
        completions = tuple(
            Completion(
                text="",
                token_ids=tuple(token for token, _ in pairs),
                logprobs=tuple(logprob for _, logprob in pairs),
                finish=Finish.STOP,
            )
            for pairs, _ in responses
        )
        asked = Prompt(uid="q", text="", answer="", token_ids=tuple(prompt))
        verdicts = tuple(Verdict(score=score, outcome=Outcome.OK) for _, score in responses)
        group = RolloutGroup(prompt=asked, completions=completions, policy_version=3)
        groups.append(ScoredGroup(group=group, verdicts=verdicts))
    return groups


QUICK = settings(max_examples=60, deadline=None, derandomize=True)


@QUICK
@given(shapes=GROUPS, pad=TOKENS)
def test_every_token_logprob_and_verdict_is_where_it_belongs(shapes: list, pad: int) -> None:
    groups = made(shapes)
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
    groups = made(shapes)
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
