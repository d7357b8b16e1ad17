"""Loaders: sized, one seed per step, each question its own; the datamodule closes what it was given."""

import itertools

import pytest

from ceeh.config.settings import DynamicSampling, load
from ceeh.data.datamodule import RolloutDataModule
from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.data.loader import HeldOutLoader, RolloutLoader
from ceeh.data.prompts import PromptStream
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.runtime.rng import derived_seed
from ceeh.types import Completion, Finish, Prompt, RolloutGroup

PROMPTS = [Prompt(uid=str(i), text="?", answer="07", token_ids=(3, 4)) for i in range(10)]
SAMPLING = Sampling(completions=2, temperature=1.0, max_tokens=4, seed=5)


class Recording:
    """An engine that answers `so 07` to everything and keeps what it was asked."""

    def __init__(self) -> None:
        self.policy_version = 3
        self.asked: list[tuple[list[str], Sampling]] = []
        self.closed = 0

    def generate(self, prompts, sampling):
        self.asked.append(([prompt.uid for prompt in prompts], sampling))
        one = Completion(text="so 07", token_ids=(5, 1), logprobs=(-1.0, -2.0), finish=Finish.STOP)
        return [
            RolloutGroup(
                prompt=prompt,
                completions=(one,) * sampling.completions,
                policy_version=self.policy_version,
            )
            for prompt in prompts
        ]

    def load_weights(self, weights, *, policy_version): ...
    def canary(self, *, temperature): ...
    def sleep(self): ...
    def wake(self): ...
    def close(self):
        self.closed += 1


def loader(engine: RolloutEngine, steps: int = 4, seed: int = 5) -> RolloutLoader:
    return RolloutLoader(
        engine=engine,
        verifier=ExactAnswer(),
        stream=PromptStream(PROMPTS, seed=0, prompts_per_step=5),
        sampling=Sampling(completions=2, temperature=1.0, max_tokens=4, seed=seed),
        steps=steps,
        pad_token_id=0,
        dynamic=DynamicSampling(),
        gather=lambda value: [value],
    )


def test_nothing_is_generated_before_it_is_asked_for() -> None:
    engine = Recording()
    stream = loader(engine)
    assert len(stream) == 4
    batches = iter(stream)
    assert engine.asked == []
    batch = next(batches)
    assert len(engine.asked) == 1
    assert batch.policy_version == 3
    assert batch.correct.all()
    assert set(batch.timings) == {"generate", "score", "collate"}


def test_every_step_has_its_own_seed_which_follows_from_the_runs() -> None:
    engine, same, other = Recording(), Recording(), Recording()
    for chosen, seed in ((engine, 5), (same, 5), (other, 6)):
        list(loader(chosen, seed=seed))
    seeds = [sampling.seed for _, sampling in engine.asked]
    assert len(set(seeds)) == 4
    assert engine.asked == same.asked
    assert not set(seeds) & {sampling.seed for _, sampling in other.asked}


def test_a_loader_continues_where_its_state_was_taken() -> None:
    whole, stopped, resumed = Recording(), Recording(), Recording()
    list(loader(whole))
    first = loader(stopped)
    list(itertools.islice(iter(first), 2))
    second = loader(resumed)
    second.load_state_dict(first.state_dict())
    assert len(list(second)) == 2
    assert stopped.asked + resumed.asked == whole.asked


@pytest.mark.parametrize(
    ("rank", "world_size", "indices"),
    [
        (0, 1, [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]),
        (1, 2, [(1, 3, 5, 7), (9,)]),
        (10, 11, [(0,)]),  # no question is left for this rank
    ],
)
def test_held_out_questions_come_once_each_in_order_with_their_places(
    rank: int, world_size: int, indices: list[tuple[int, ...]]
) -> None:
    engine = Recording()
    held_out = HeldOutLoader(
        engine=engine,
        verifier=ExactAnswer(),
        prompts=PROMPTS,
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


@pytest.mark.parametrize("end", ["close", "exception"])
def test_the_datamodule_closes_engine_and_verifier_at_every_end(end: str) -> None:
    engine = Recording()
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
