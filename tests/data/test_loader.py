"""Loaders: one seed per step, dynamic sampling alike on all ranks, exact resumption; the datamodule's end."""

import itertools
import time
from collections.abc import Callable, Sequence
from threading import Barrier, Thread
from typing import Any

import pytest

from ceeh.config.rollouts import Allocation, DynamicSampling, Rollouts
from ceeh.config.settings import load
from ceeh.data import datamodule
from ceeh.data.allocation import Knapsack
from ceeh.data.batch import RolloutBatch
from ceeh.data.datamodule import RolloutDataModule
from ceeh.data.engine.base import Sampling
from ceeh.data.loader import HeldOutLoader, RolloutLoader, has_contrast
from ceeh.data.prompts import PromptStream
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.runtime.rng import derived_seed
from ceeh.types import GroupOutcome, Prompt, RolloutGroup
from tests.groups import make_completion, make_group, make_prompt

PROMPTS = [make_prompt(f"u{number}") for number in range(24)]
SAMPLING = Sampling(completions=2, temperature=1.0, max_tokens=4, seed=5)


class Scripted:
    """Answers prompt u<n> with n % 3 correct responses of two, of 4 and 2 tokens; keeps what it was asked."""

    def __init__(self) -> None:
        self.policy_version = 3
        self.asked: list[tuple[list[str], Sampling]] = []
        self.closed = 0

    @property
    def rounds(self) -> list[list[str]]:
        """The prompts of each round of generation."""
        return [uids for uids, _ in self.asked]

    @property
    def drawn(self) -> list[str]:
        return [uid for uids in self.rounds for uid in uids]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        self.asked.append(([prompt.uid for prompt in prompts], sampling))
        return [
            make_group(
                prompt,
                [
                    make_completion(f"so 0{7 if n < int(prompt.uid[1:]) % 3 else 8}", (5,) * length)
                    for n, length in enumerate((4, 2))
                ],
                self.policy_version,
            )
            for prompt in prompts
        ]

    def load_weights(self, weights, *, policy_version): ...
    def canary(self, *, temperature): ...
    def sleep(self): ...
    def wake(self): ...
    def close(self):
        self.closed += 1


def alone(value: Any) -> list[Any]:
    return [value]


def loader(
    engine: Scripted,
    max_rounds: int = 8,
    *,
    limit_tokens: int | None = None,
    steps: int = 6,
    seed: int = 5,
    prompts: list[Prompt] = PROMPTS,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[Any], list[Any]] = alone,
    allocation: Knapsack | None = None,
    probe: tuple[list[Prompt], int] | None = None,
) -> RolloutLoader:
    return RolloutLoader(
        engine=engine,
        verifier=ExactAnswer(r"so (\d\d)"),
        stream=PromptStream(
            prompts,
            seed=0,
            prompts_per_step=4,
            rank=rank,
            world_size=world_size,
            balanced_by=4,
        ),
        sampling=Sampling(completions=2, temperature=1.0, max_tokens=4, seed=seed),
        steps=steps,
        pad_token_id=0,
        dynamic=DynamicSampling(max_rounds=max_rounds, limit_tokens=limit_tokens),
        gather=gather,
        allocation=allocation,
        probe=probe,
    )


def uids(batch: RolloutBatch) -> list[str]:
    return [scored.group.prompt.uid for scored in batch.groups]


def test_nothing_is_generated_before_it_is_asked_for() -> None:
    engine = Scripted()
    stream = loader(engine, 1)
    batches = iter(stream)
    assert (len(stream), engine.asked) == (6, [])
    batch = next(batches)
    assert (len(engine.asked), batch.policy_version) == (1, 3)
    assert set(batch.timings) == {"generate", "score", "waiting", "collate"}


def test_a_probe_is_answered_by_the_same_weights_and_is_not_among_the_rows() -> None:
    engine, plain = Scripted(), Scripted()
    apart = [make_prompt("u31"), make_prompt("u30")]  # 1 and 0 of 2 responses are correct
    batches = list(loader(engine, 1, steps=2, probe=(apart, 7)))
    without = list(loader(plain, 1, steps=2))
    assert [uids(batch) for batch in batches] == [uids(batch) for batch in without]
    assert engine.asked[::2] == plain.asked, "the probe changes no rollout"
    for batch, (asked, sampling) in zip(batches, engine.asked[1::2], strict=True):
        assert (asked, sampling.completions) == (["u31", "u30"], 7)
        assert [outcome.uid for outcome in batch.probe] == ["u31", "u30"]
        assert [outcome.accuracy for outcome in batch.probe] == [0.5, 0.0]
        assert set(batch.timings) == {"generate", "score", "waiting", "collate", "probe"}
    assert len({sampling.seed for _, sampling in engine.asked}) == 4
    assert without[0].probe == ()


def test_a_rank_without_a_probe_question_makes_the_same_calls_and_gets_the_others_answers() -> None:
    engine, elsewhere = (
        Scripted(),
        GroupOutcome(uid="p", correct=(True,), lengths=(1,), finished=(True,)),
    )

    def gather(own: Any) -> list[Any]:
        time.sleep(0.02)
        return [own, [elsewhere]] if own == [] else [own]

    (batch,) = loader(engine, 1, steps=1, probe=([], 2), gather=gather)
    assert (engine.rounds[1], batch.probe) == ([], (elsewhere,))
    assert batch.timings["waiting"] >= 0.04, "for the slowest rank's rollouts and its probe"


def test_with_dynamic_sampling_the_probe_is_answered_once() -> None:
    engine = Scripted()
    (batch,) = loader(engine, 8, steps=1, probe=([make_prompt("u31")], 2))
    assert len(engine.rounds) == batch.sampling_rounds + 1 > 2
    assert (engine.rounds[-1], len(batch.probe)) == (["u31"], 1)
    assert len(batch.dropped) > 0


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


@pytest.mark.parametrize(
    ("correct", "lengths", "limit", "expected"),
    [
        ([1, 0], [5, 5], None, True),
        ([1, 1], [5, 9], None, False),
        ([0, 0], [5, 9], None, False),
        # With a limit of 8 the second right response counts as wrong.
        ([1, 1], [5, 9], 8, True),
        ([1, 1], [5, 8], 8, False),
        ([0, 1], [5, 9], 8, False),
    ],
)
def test_a_group_has_contrast_when_some_and_not_all_are_correct(correct, lengths, limit, expected):
    outcome = GroupOutcome(
        uid="a",
        correct=tuple(map(bool, correct)),
        lengths=tuple(lengths),
        finished=(True,) * len(correct),
    )
    assert has_contrast(outcome, limit) is expected


def test_without_dynamic_sampling_there_is_one_round() -> None:
    batches = list(loader(Scripted(), 1))
    assert [len(batch.groups) for batch in batches] == [4] * 6
    assert [(batch.sampling_rounds, batch.dropped) for batch in batches] == [(1, ())] * 6
    assert sorted(uid for batch in batches for uid in uids(batch)) == sorted(
        prompt.uid for prompt in PROMPTS
    )


def test_the_wait_for_the_slowest_rank_is_timed_in_every_round() -> None:
    engine, asked = Scripted(), []

    def gather(value: Any) -> list[Any]:
        asked.append(value)
        time.sleep(0.02)
        return [value]

    batch = next(iter(loader(engine, gather=gather)))
    assert len(asked) == batch.sampling_rounds > 1
    assert batch.timings["waiting"] >= 0.02 * len(asked)
    assert batch.timings["generate"] < 0.02


def test_groups_without_contrast_are_replaced_by_the_next_prompts_of_the_stream() -> None:
    engine = Scripted()
    batch = next(iter(loader(engine)))
    order = engine.drawn
    mixed = [uid for uid in order if int(uid[1:]) % 3 == 1]
    assert uids(batch) == mixed[:4]
    assert len(batch.groups) == 4
    assert [outcome.uid for outcome in batch.dropped] == [uid for uid in order if uid not in mixed]
    assert batch.sampling_rounds == len(engine.rounds) > 1
    # Each round draws what the ones before left missing, in the stream's order.
    kept = 0
    for asked in engine.rounds:
        assert len(asked) == 4 - kept
        kept += sum(uid in mixed for uid in asked)
    plain = PromptStream(PROMPTS, seed=0, prompts_per_step=len(order))
    assert order == [prompt.uid for prompt in plain.next_step()]
    assert len({sampling.seed for _, sampling in engine.asked}) == len(engine.asked)


def test_after_the_last_round_dropped_groups_fill_the_step() -> None:
    engine = Scripted()
    batch = next(iter(loader(engine, 2)))
    order = engine.drawn
    mixed = [uid for uid in order if int(uid[1:]) % 3 == 1]
    assert batch.sampling_rounds == len(engine.rounds) == 2
    assert 0 < len(mixed) < 4
    others = [uid for uid in order if uid not in mixed]
    filled = [*mixed, *others[: 4 - len(mixed)]]
    assert uids(batch) == [uid for uid in order if uid in filled]  # in the order drawn
    assert {outcome.uid for outcome in batch.dropped} == set(order) - set(filled)


def test_a_limit_decides_what_counts_as_correct() -> None:
    # Within 3 tokens the second response alone counts: u<n> has contrast where n % 3 = 2.
    batch = next(iter(loader(Scripted(), limit_tokens=3)))
    assert all(int(uid[1:]) % 3 == 2 for uid in uids(batch))


def test_sampling_ends_when_the_step_has_seen_every_prompt() -> None:
    engine = Scripted()
    unsolved = [prompt for prompt in PROMPTS if int(prompt.uid[1:]) % 3 == 0]
    batch = next(iter(loader(engine, 100, prompts=unsolved)))
    order = engine.drawn
    assert sorted(order) == sorted(prompt.uid for prompt in unsolved)
    assert uids(batch) == order[:4]
    assert batch.sampling_rounds == 2


def test_over_many_steps_no_prompt_comes_twice_in_a_step_and_none_is_missed() -> None:
    engine = Scripted()
    seen: list[str] = []
    for batch in loader(engine, steps=60):
        step = engine.drawn
        assert len(set(step)) == len(step)
        assert len(batch.groups) == 4
        seen += step
        engine.asked.clear()
    visits = [seen.count(prompt.uid) for prompt in PROMPTS]
    # All as often, up to the current epoch and a deferred visit.
    assert max(visits) - min(visits) <= 2
    assert min(visits) > 20


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


def four_each() -> Knapsack:
    settings = Allocation(method="knapsack", minimum=2, maximum=9)
    return Knapsack(Rollouts(completions_per_prompt=4, allocation=settings))


def test_completions_go_to_what_the_last_visit_promises_most_of() -> None:
    engine = Scripted()
    list(loader(engine, 1, steps=2, prompts=PROMPTS[:4], allocation=four_each()))
    asked = [
        dict(zip(names, sampling.completions, strict=True)) for names, sampling in engine.asked
    ]
    # u1 solved one of two responses, u2 both, u0 and u3 none; 16 in all, at most 9 for one.
    assert asked == [dict.fromkeys(("u0", "u1", "u2", "u3"), 4), asked[1]]
    assert asked[1]["u1"] == 9
    assert sorted(asked[1].values()) == [2, 2, 3, 9]


def test_what_other_ranks_saw_counts_for_the_allocation() -> None:
    engine, allocation = Scripted(), four_each()
    elsewhere = [("u1", 3.0, 0.25), ("far", 3.0, 0.5)]

    def gather(own: Any) -> list[Any]:
        return [own, (0, elsewhere)]

    next(iter(loader(engine, 1, prompts=PROMPTS[:4], allocation=allocation, gather=gather)))
    assert allocation.counts(["u2", "far"]) == (2, 6)
    assert allocation.accuracies["u1"] == 0.25


@pytest.mark.parametrize("cut", [1, 6, 8])
def test_a_resumed_loader_allocates_what_the_uninterrupted_one_does(cut: int) -> None:
    whole, stopped, resumed = Scripted(), Scripted(), Scripted()
    list(loader(whole, 1, steps=12, allocation=four_each()))
    first = loader(stopped, 1, steps=12, allocation=four_each())
    list(itertools.islice(iter(first), cut))
    second = loader(resumed, 1, steps=12, allocation=four_each())
    second.load_state_dict(first.state_dict())
    list(second)
    assert stopped.asked + resumed.asked == whole.asked
    assert len({sampling.completions for _, sampling in whole.asked}) > 2


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


def test_derived_seeds_depend_on_every_part() -> None:
    seeds = {
        derived_seed(*parts) for parts in [(0, "a"), (1, "a"), (0, "b"), (0, "a", ""), ("0a",)]
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("world_size", "shares"), [(1, [3]), (2, [2, 1]), (4, [1, 1, 1, 0])])
def test_each_rank_answers_its_share_of_the_probe(
    monkeypatch: pytest.MonkeyPatch, world_size: int, shares: list[int]
) -> None:
    found: list[Prompt] = []
    for rank, share in enumerate(shares):
        engine = Scripted()
        module = RolloutDataModule(
            load([], ["rollouts.prompts_per_step=4", "optimizer.prompts_per_minibatch=4"]),
            engine=engine,
            verifier=ExactAnswer(),
            train_prompts=PROMPTS,
            held_out_prompts=PROMPTS,
            probe_prompts=[make_prompt(f"p{number}") for number in range(3)],
            pad_token_id=0,
        )
        monkeypatch.setattr(datamodule, "rank", lambda at=rank: at)
        monkeypatch.setattr(datamodule, "world_size", lambda: world_size)
        prompts, samples = module.train_dataloader().probe
        assert (len(prompts), samples) == (share, 2)
        found += prompts
    assert sorted(prompt.uid for prompt in found) == ["p0", "p1", "p2"]


@pytest.mark.parametrize("end", ["close", "exception"])
def test_the_datamodule_closes_engine_and_verifier_at_every_end(end: str) -> None:
    engine = Scripted()
    module = RolloutDataModule(
        load([]),
        engine=engine,
        verifier=ExactAnswer(),
        train_prompts=PROMPTS,
        held_out_prompts=PROMPTS,
        pad_token_id=0,
    )
    if end == "close":
        module.close()
    else:
        module.on_exception(RuntimeError("out of memory"))
    assert engine.closed == 1
