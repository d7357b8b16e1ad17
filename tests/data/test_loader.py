"""Loaders: one seed per step, ranks that do the same, exact resumption; held-out questions in order."""

import itertools
from threading import Barrier, Thread
from typing import Any

import pytest

from ceeh.data.batch import RolloutBatch
from ceeh.data.engine.base import Sampling
from ceeh.data.loader import HeldOutLoader
from ceeh.data.verify.exact_answer import ExactAnswer
from tests.data.scripted import PROMPTS, Scripted, loader, uids
from tests.groups import make_group

SAMPLING = Sampling(completions=2, temperature=1.0, max_tokens=4, seed=5)


def test_nothing_is_generated_before_it_is_asked_for() -> None:
    engine = Scripted()
    stream = loader(engine, 1)
    batches = iter(stream)
    assert (len(stream), engine.asked) == (6, [])
    batch = next(batches)
    assert (len(engine.asked), batch.policy_version) == (1, 3)
    assert set(batch.timings) == {"generate", "score", "waiting", "collate"}


def test_a_prompt_without_completions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Scripted()
    monkeypatch.setattr(engine, "generate", lambda prompts, _: [make_group(prompts[0], [], 3)])
    with pytest.raises(ValueError, match="the engine returned no completion for prompt 'u"):
        next(iter(loader(engine, 1)))


def test_every_step_has_its_own_seed_which_follows_from_the_runs() -> None:
    engine, same, other = Scripted(), Scripted(), Scripted()
    for chosen, seed in ((engine, 5), (same, 5), (other, 6)):
        list(loader(chosen, 1, seed=seed))
    seeds = {sampling.seed for _, sampling in engine.asked}
    assert len(seeds) == 6
    assert engine.asked == same.asked
    assert not seeds & {sampling.seed for _, sampling in other.asked}


def test_without_dynamic_sampling_there_is_one_round() -> None:
    batches = list(loader(Scripted(), 1))
    assert [len(batch.groups) for batch in batches] == [4] * 6
    assert [(batch.sampling_rounds, batch.dropped) for batch in batches] == [(1, ())] * 6
    assert sorted(uid for batch in batches for uid in uids(batch)) == sorted(
        prompt.uid for prompt in PROMPTS
    )


@pytest.mark.parametrize(("max_rounds", "cut"), [(1, 2), (8, 1), (8, 3), (8, 5)])
def test_a_resumed_loader_draws_what_the_uninterrupted_one_draws(max_rounds: int, cut: int) -> None:
    whole, stopped, resumed = Scripted(), Scripted(), Scripted()
    batches = list(loader(whole, max_rounds))
    first = loader(stopped, max_rounds)
    list(itertools.islice(iter(first), cut))
    second = loader(resumed, max_rounds)
    second.load_state_dict(first.state_dict())
    assert [uids(batch) for batch in second] == [uids(batch) for batch in batches[cut:]]
    assert stopped.asked + resumed.asked == whole.asked


def test_ranks_do_the_same_rounds_and_keep_the_same_stream() -> None:
    barrier, box = Barrier(2), [None, None]
    results: dict[int, list[RolloutBatch]] = {}
    states: dict[int, list[dict]] = {0: [], 1: []}
    engines = [Scripted(), Scripted()]

    def run(rank: int) -> None:
        def gather(value: Any) -> list[Any]:
            box[rank] = value
            barrier.wait(10)
            values = list(box)
            barrier.wait(10)
            return values

        own = loader(engines[rank], 4, rank=rank, world_size=2, gather=gather)
        results[rank] = []
        for batch in own:
            results[rank].append(batch)
            state = own.state_dict()
            table = {name: each.tolist() for name, each in state["stream"]["lengths"].items()}
            states[rank].append(state | {"stream": state["stream"] | {"lengths": table}})

    threads = [Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(results[rank]) for rank in (0, 1)] == [6, 6]
    assert states[0] == states[1]
    for left, right in zip(results[0], results[1], strict=True):
        assert left.sampling_rounds == right.sampling_rounds
        assert len(left.groups) == len(right.groups) == 2
        drawn = [*uids(left), *uids(right)]
        drawn += [outcome.uid for batch in (left, right) for outcome in batch.dropped]
        assert len(set(drawn)) == len(drawn)
    # Both know the lengths of all questions that either has sampled.
    rounds = zip(*(each.rounds for each in engines), strict=True)
    sampled = dict.fromkeys(uid for pair in rounds for uids in pair for uid in uids)
    known = bytes(states[0][-1]["stream"]["lengths"]["uids"]).decode().split("\0")[:-1]
    assert known == list(sampled)
    # A rank whose share is full calls the engine all the same, which may be one of both.
    assert len(engines[0].rounds) == len(engines[1].rounds)
    assert [] in engines[0].rounds + engines[1].rounds


@pytest.mark.parametrize(
    ("questions", "rank", "world_size", "indices"),
    [
        (10, 0, 1, [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]),
        (10, 1, 2, [(1, 3, 5, 7), (9,)]),
        # All ranks have as many batches as the first, which here has one question more.
        (9, 0, 2, [(0, 2, 4, 6), (8,)]),
        (9, 1, 2, [(1,), (3, 5, 7)]),
    ],
)
def test_held_out_questions_come_once_each_in_order_with_their_places(
    questions: int, rank: int, world_size: int, indices: list[tuple[int, ...]]
) -> None:
    engine = Scripted()
    held_out = HeldOutLoader(
        engine=engine,
        verifier=ExactAnswer(),
        prompts=PROMPTS[:questions],
        sampling=SAMPLING,
        prompts_per_batch=4,
        pad_token_id=0,
        rank=rank,
        world_size=world_size,
    )
    assert len(held_out) == len(indices)
    assert [batch.question_indices for batch in held_out] == indices
    asked = [uid for uids, _ in engine.asked for uid in uids]
    assert asked == [PROMPTS[index].uid for batch in indices for index in batch]
