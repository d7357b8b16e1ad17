"""Dynamic sampling: what is dropped, drawn and filled up, alike on all ranks and after a resume."""

import itertools
from collections.abc import Callable
from threading import Barrier, Thread

import pytest

from ceeh.config.settings import DynamicSampling
from ceeh.data.batch import RolloutBatch
from ceeh.data.engine.base import Sampling
from ceeh.data.loader import RolloutLoader, has_contrast
from ceeh.data.prompts import PromptStream
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.types import Completion, Finish, GroupOutcome, Prompt, RolloutGroup
from tests.data.test_loader import Recording

COUNT = 24
PROMPTS = [
    Prompt(uid=f"u{number}", text="?", answer="07", token_ids=(3,)) for number in range(COUNT)
]


class Scripted(Recording):
    """Answers prompt u<n> with n % 3 right responses out of two, the first of 4 tokens, the second of 2."""

    @property
    def rounds(self) -> list[list[str]]:
        """The prompts of each round of generation."""
        return [uids for uids, _ in self.asked]

    @property
    def drawn(self) -> list[str]:
        return [uid for uids in self.rounds for uid in uids]

    def generate(self, prompts, sampling):
        self.asked.append(([prompt.uid for prompt in prompts], sampling))
        return [self.group(prompt) for prompt in prompts]

    def group(self, prompt: Prompt) -> RolloutGroup:
        texts = ["so 07" if index < int(prompt.uid[1:]) % 3 else "so 08" for index in range(2)]
        completions = [
            Completion(
                text=text, token_ids=(5,) * length, logprobs=(-1.0,) * length, finish=Finish.STOP
            )
            for text, length in zip(texts, (4, 2), strict=True)
        ]
        return RolloutGroup(prompt=prompt, completions=tuple(completions), policy_version=3)


def alone(value: int) -> list[int]:
    return [value]


def loader(
    engine: Scripted,
    max_rounds: int = 8,
    *,
    limit_tokens: int | None = None,
    steps: int = 6,
    per_step: int = 4,
    prompts: list[Prompt] = PROMPTS,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[int], list[int]] = alone,
) -> RolloutLoader:
    stream = PromptStream(
        prompts, seed=0, prompts_per_step=per_step, rank=rank, world_size=world_size
    )
    return RolloutLoader(
        engine=engine,
        verifier=ExactAnswer(r"so (\d\d)"),
        stream=stream,
        sampling=Sampling(completions=2, temperature=1.0, max_tokens=4, seed=5),
        steps=steps,
        pad_token_id=0,
        dynamic=DynamicSampling(max_rounds=max_rounds, limit_tokens=limit_tokens),
        gather=gather,
    )


def uids(batch: RolloutBatch) -> list[str]:
    return [scored.group.prompt.uid for scored in batch.groups]


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
def test_a_group_has_contrast_when_some_and_not_all_are_right(correct, lengths, limit, expected):
    outcome = GroupOutcome(
        uid="a",
        correct=tuple(map(bool, correct)),
        lengths=tuple(lengths),
        finished=(True,) * len(correct),
    )
    assert has_contrast(outcome, limit) is expected


def test_off_it_is_one_round_of_every_prompt_and_ranks_need_not_agree() -> None:
    engine = Scripted()
    plain = loader(engine, 1, gather=lambda value: pytest.fail("asked the other ranks"))
    batches = list(plain)
    assert [len(batch.groups) for batch in batches] == [4] * 6
    assert [(batch.sampling_rounds, batch.dropped) for batch in batches] == [(1, ())] * 6
    assert sorted(uid for batch in batches for uid in uids(batch)) == sorted(
        prompt.uid for prompt in PROMPTS
    )


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


def test_a_limit_decides_what_counts_as_right() -> None:
    # Within 3 tokens the second response alone counts: u<n> has contrast where n % 3 = 2.
    batch = next(iter(loader(Scripted(), limit_tokens=3)))
    assert all(int(uid[1:]) % 3 == 2 for uid in uids(batch))


def test_it_ends_when_the_step_has_seen_every_prompt() -> None:
    engine = Scripted()
    hopeless = [prompt for prompt in PROMPTS if int(prompt.uid[1:]) % 3 == 0]
    batch = next(iter(loader(engine, 100, prompts=hopeless)))
    order = engine.drawn
    assert sorted(order) == sorted(prompt.uid for prompt in hopeless)
    assert uids(batch) == order[:4]
    assert batch.sampling_rounds == 2


def test_over_many_steps_no_prompt_comes_twice_in_a_step_and_none_is_forgotten() -> None:
    engine = Scripted()
    seen: list[str] = []
    for batch in loader(engine, steps=60):
        step = engine.drawn
        assert len(set(step)) == len(step)
        assert len(batch.groups) == 4
        seen += step
        engine.asked.clear()
    visits = [seen.count(prompt.uid) for prompt in PROMPTS]
    # All as often, up to the epoch under way and a deferred visit.
    assert max(visits) - min(visits) <= 2
    assert min(visits) > 20


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_resumed_loader_draws_what_the_uninterrupted_one_draws(cut: int) -> None:
    whole, stopped, resumed = Scripted(), Scripted(), Scripted()
    batches = list(loader(whole))
    first = loader(stopped)
    list(itertools.islice(iter(first), cut))
    second = loader(resumed)
    second.load_state_dict(first.state_dict())
    assert [uids(batch) for batch in second] == [uids(batch) for batch in batches[cut:]]
    assert stopped.asked + resumed.asked == whole.asked


def test_ranks_go_the_same_rounds_and_keep_the_same_stream() -> None:
    barrier, box = Barrier(2), [0, 0]
    results: dict[int, list[RolloutBatch]] = {}
    states: dict[int, list[dict]] = {0: [], 1: []}
    engines = [Scripted(), Scripted()]

    def run(rank: int) -> None:
        def gather(value: int) -> list[int]:
            box[rank] = value
            barrier.wait(10)
            values = list(box)
            barrier.wait(10)
            return values

        own = loader(engines[rank], 4, rank=rank, world_size=2, gather=gather)
        results[rank] = []
        for batch in own:
            results[rank].append(batch)
            states[rank].append(own.state_dict())

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
    assert len(engines[0].rounds) != len(engines[1].rounds)  # one had to wait for the other
