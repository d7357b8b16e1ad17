"""The stream of prompts: its order, the shares of ranks and exact resumption."""

import io
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from ceeh.data.stream import PromptStream
from ceeh.errors import ConfigError
from tests.groups import make_prompt


def prompts(count):
    return [make_prompt(f"u{i}") for i in range(count)]


def stream(count=10, per_step=4, *, seed=0, rank=0, world_size=1, balanced_by=None):
    return PromptStream(
        prompts(count),
        seed=seed,
        prompts_per_step=per_step,
        rank=rank,
        world_size=world_size,
        balanced_by=balanced_by,
    )


def flat(steps):
    return [uid for step in steps for uid in step]


def uids(source, steps):
    return [[prompt.uid for prompt in source.next_step()] for _ in range(steps)]


@pytest.mark.parametrize(("count", "per_step"), [(10, 4), (7, 7), (7, 6), (5, 3), (1, 1), (12, 4)])
def test_no_prompt_comes_twice_in_a_step_and_all_come_equally_often(count, per_step):
    steps = uids(stream(count, per_step), 10 * count)
    assert all(len(set(step)) == per_step for step in steps)
    # count * per_step prompts in `count` steps are exactly per_step epochs
    for begin in range(0, len(steps), count):
        seen = Counter(uid for step in steps[begin : begin + count] for uid in step)
        assert set(seen.values()) == {per_step}


def test_an_epoch_is_drawn_without_replacement_and_differs_from_the_next():
    drawn = uids(stream(64, 8), 16)
    first, second = [flat(drawn[begin : begin + 8]) for begin in (0, 8)]
    assert sorted(first) == sorted(second) == sorted(p.uid for p in prompts(64))
    assert first != second
    assert first != [p.uid for p in prompts(64)]


def test_a_step_across_the_end_of_an_epoch_defers_prompts_it_already_holds():
    # 3 prompts, 2 a step: step 2 takes the last of epoch 0 and the first *other* one of epoch 1;
    # over the first three steps each prompt comes twice, whichever the permutations are.
    for seed in range(20):
        steps = uids(stream(3, 2, seed=seed), 3)
        assert all(len(set(step)) == 2 for step in steps)
        assert set(Counter(flat(steps)).values()) == {2}


def test_the_order_depends_on_the_seed_and_not_on_rng_state():
    random.seed(1)
    one = uids(stream(), 9)
    random.seed(2)  # whose state the type checker of the tests moves, so only the order is compared
    state = torch.get_rng_state()
    assert uids(stream(), 9) == one
    assert torch.equal(torch.get_rng_state(), state)
    assert uids(stream(seed=1), 9) != one


def test_the_order_does_not_depend_on_the_order_of_the_file():
    other = PromptStream(prompts(10)[::-1], seed=0, prompts_per_step=4)
    assert uids(other, 9) == uids(stream(), 9)


def test_the_order_is_the_same_in_every_version():
    assert uids(stream(5, 5), 2) == [["u2", "u1", "u4", "u3", "u0"], ["u0", "u2", "u4", "u3", "u1"]]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_take_disjoint_shares_of_the_same_step(world_size):
    whole = uids(stream(), 12)
    shares = [uids(stream(rank=rank, world_size=world_size), 12) for rank in range(world_size)]
    for step, *parts in zip(whole, *shares, strict=True):
        assert all(len(part) == 4 // world_size for part in parts)
        assert sorted(flat(parts)) == sorted(step)


def as_lists(state):
    return state | {"lengths": {name: each.tolist() for name, each in state["lengths"].items()}}


def saved(state):
    """As a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def visit(ranks, step):
    """A step of all ranks, whose responses' lengths all of them observe; the uids that each rank got."""
    got = [[prompt.uid for prompt in rank.next_step()] for rank in ranks]
    lengths = [(uid, 10.0 * int(uid[1:]) + step) for share in got for uid in share]
    for rank in ranks:
        rank.observe(lengths)
    return got


def test_balanced_ranks_move_questions_only_within_a_minibatch():
    whole = uids(stream(16, 8), 8)
    ranks = [stream(16, 8, rank=rank, world_size=2, balanced_by=4) for rank in range(2)]
    plain = [stream(16, 8, rank=rank, world_size=2) for rank in range(2)]
    moved = []
    for step, drawn in enumerate(whole):
        got, given = visit(ranks, step), [[p.uid for p in rank.next_step()] for rank in plain]
        moved.append(got != given)
        for first in (0, 2):  # of a rank's four, two are in each minibatch of four
            minibatch = flat(share[first : first + 2] for share in got)
            assert sorted(minibatch) == sorted(drawn[2 * first : 2 * first + 4])
            for share in got:
                assert sorted(share[first : first + 2], key=drawn.index) == share[first : first + 2]
        assert as_lists(ranks[0].state_dict()) == as_lists(ranks[1].state_dict())
    assert moved[:2] == [False, False], "no question of the first epoch had been seen"
    assert all(moved[2:])


def test_balance_does_not_affect_one_process():
    one, plain = stream(7, 6, balanced_by=2), stream(7, 6)
    for _ in range(5):
        one.observe([(prompt.uid, 5.0) for prompt in one.next_step()])
        plain.next_step()
    assert as_lists(one.state_dict()) == as_lists(plain.state_dict())


@pytest.mark.parametrize("cut", range(6))
def test_resumed_balanced_ranks_equal_the_uninterrupted_ones(cut):
    def build():
        return [stream(8, 6, rank=rank, world_size=2, balanced_by=6) for rank in range(2)]

    ranks = build()
    whole = [visit(ranks, step) for step in range(6)]
    before = build()
    for step in range(cut):
        visit(before, step)
    state = saved(before[0].state_dict())
    resumed = build()
    for rank in resumed:
        rank.load_state_dict(state)
    assert [visit(resumed, step) for step in range(cut, 6)] == whole[cut:]


@pytest.mark.parametrize("cut", range(13))
def test_a_resumed_stream_equals_the_uninterrupted_one(cut):
    whole = uids(stream(7, 6), 13)
    before = stream(7, 6)
    assert uids(before, cut) == whole[:cut]
    state = saved(before.state_dict())
    uids(before, 5)  # the state must not follow the stream it was taken from
    resumed = stream(7, 6)
    uids(resumed, 3)
    resumed.load_state_dict(state)
    assert uids(resumed, 13 - cut) == whole[cut:]


def test_every_rank_has_the_state_that_rank_0_writes():
    ranks = [stream(7, 6, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(5):
        for one in ranks:
            one.next_step()
        assert as_lists(ranks[0].state_dict()) == as_lists(ranks[1].state_dict())


def test_another_data_set_or_seed_is_refused_on_resume():
    state = stream().state_dict()
    with pytest.raises(ConfigError, match=r"prompts.train is not the data set of the checkpoint"):
        stream(11).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"seed is 1, but the checkpoint's .* drawn with 0"):
        stream(seed=1).load_state_dict(state)


@pytest.mark.parametrize("change", [{"token_ids": (1, 2)}, {"answer": "2"}])
def test_other_prompts_or_answers_to_the_same_questions_are_refused_on_resume(change):
    state = stream().state_dict()
    changed = [replace(prompt, **change) for prompt in prompts(10)]
    with pytest.raises(ConfigError, match=r"their prompts or answers are not; resume with .* date"):
        PromptStream(changed, seed=0, prompts_per_step=4).load_state_dict(state)


def test_a_probe_question_whose_answer_changed_is_noticed_on_resume():
    trained, probe = prompts(10)[:8], prompts(10)[8:]
    whole = PromptStream(trained, seed=0, prompts_per_step=4, probe=probe)
    changed = [probe[0], replace(probe[1], answer="2")]
    other = PromptStream(trained, seed=0, prompts_per_step=4, probe=changed)
    with pytest.raises(ConfigError, match=r"their prompts or answers are not"):
        other.load_state_dict(whole.state_dict())
    assert {uid for _ in range(4) for uid in (p.uid for p in whole.next_step())} == {
        p.uid for p in trained
    }
