"""Dynamic sampling: rounds of generation until enough groups have contrast."""

import time
from typing import Any

import pytest

from ceeh.data.loader import has_contrast
from ceeh.data.stream import PromptStream
from ceeh.types import GroupOutcome
from tests.data.scripted import PROMPTS, Scripted, loader, uids


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
