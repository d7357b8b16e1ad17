"""The rollout stream: each `next` samples one step's rollouts, scores and collates them.

Both loaders have a length. Without one Lightning would fetch a batch ahead, and every rollout would be one
policy version stale.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from torch.profiler import record_function

from ceeh.config.rollouts import DynamicSampling
from ceeh.data.allocation import Knapsack
from ceeh.data.batch import RolloutBatch, collate, equal_batches
from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.data.stream import PromptStream
from ceeh.data.verify.base import Verifier
from ceeh.runtime import shutdown
from ceeh.runtime.rng import derived_seed
from ceeh.types import GroupOutcome, Prompt, ScoredGroup


def rollout(
    engine: RolloutEngine, verifier: Verifier, prompts: Sequence[Prompt], sampling: Sampling
) -> tuple[Sequence[ScoredGroup], dict[str, float]]:
    """Generates and scores; returns the groups and the seconds of each phase. A stop comes in between.

    Every rank must call it, one without prompts too: its engine may be shared. Raises ValueError for a prompt
    without a completion.
    """
    shutdown.check()
    begin = time.perf_counter()
    with record_function("ceeh/generate"):
        groups = engine.generate(prompts, sampling)
    if empty := [group.prompt.uid for group in groups if not group.completions]:
        raise ValueError(f"the engine returned no completion for prompt '{empty[0]}'")
    shutdown.check()
    generated = time.perf_counter()
    with record_function("ceeh/score"):
        scored = verifier(groups) if groups else []
    return scored, {"generate": generated - begin, "score": time.perf_counter() - generated}


def has_contrast(outcome: GroupOutcome, limit_tokens: int | None) -> bool:
    """0 < correct responses < G: DAPO eq. 11, https://arxiv.org/abs/2503.14476.

    With `limit_tokens` a longer correct response counts as incorrect, as in DLER's truncation.
    """
    counted = [
        correct and (limit_tokens is None or length <= limit_tokens)
        for correct, length in zip(outcome.correct, outcome.lengths, strict=True)
    ]
    return any(counted) and not all(counted)


class RolloutLoader:
    """`steps` training batches, each sampled with the engine's current weights.

    Dynamic sampling (DAPO, section 3.2, https://arxiv.org/abs/2503.14476) is on when
    `dynamic.max_rounds` > 1: groups without contrast are dropped and as many further prompts drawn from the
    stream, in at most that many rounds of generation. Groups that are missing then are taken from the dropped
    ones, first drawn first: a step always has its number of groups, so that all ranks take the same optimizer
    steps. Signals observe the dropped groups, too.

    A group with only correct responses has no contrast, but a length reward works best on it: with one,
    dynamic sampling drops the most useful questions. Each rank fills its own share, so a step's groups depend
    on the number of ranks.

    With an `allocation` each prompt has its own number of completions.
    With a `probe` (this rank's questions and samples of each) the same weights then answer these questions,
    too: the batch's `probe`, which is not trained on.

    After each round, and after the probe, the ranks meet: `gather` returns a value of every rank, in rank
    order. `waiting` among a batch's timings is how long this rank waited there for the slowest one.
    """

    def __init__(
        self,
        *,
        engine: RolloutEngine,
        verifier: Verifier,
        stream: PromptStream,
        sampling: Sampling,
        steps: int,
        pad_token_id: int,
        dynamic: DynamicSampling,
        gather: Callable[[Any], list[Any]],
        allocation: Knapsack | None = None,
        probe: tuple[Sequence[Prompt], int] | None = None,
    ) -> None:
        self.engine = engine
        self.verifier = verifier
        self.stream = stream
        self.sampling = sampling
        self.steps = steps
        self.pad_token_id = pad_token_id
        self.dynamic = dynamic
        self.gather = gather
        self.allocation = allocation
        self.probe = probe
        self.rollout_step = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[RolloutBatch]:
        while self.rollout_step < self.steps:
            batch = self.sample()
            self.rollout_step += 1
            yield batch

    def sample(self) -> RolloutBatch:
        """One step's batch, in one or more rounds of generation."""
        prompts = self.stream.next_step()
        wanted, rounds, timings = len(prompts), 0, Counter[str]()
        drawn: list[ScoredGroup] = []
        while True:
            rounds += 1
            sampling = self.sampling_of(rounds)
            if self.allocation is not None:
                counts = self.allocation.counts([prompt.uid for prompt in prompts])
                sampling = replace(sampling, completions=counts)
            groups, seconds = rollout(self.engine, self.verifier, prompts, sampling)
            drawn += groups
            begin = time.perf_counter()
            seen = [(o.uid, fmean(o.lengths), o.accuracy) for o in (g.outcome for g in groups)]
            with record_function("ceeh/waiting"):
                ranks = self.gather((wanted - sum(map(self.has_contrast, drawn)), seen))
            seconds["waiting"] = time.perf_counter() - begin
            timings.update(seconds)
            missing = [number for number, _ in ranks]
            for _, seen in ranks:
                self.stream.observe((uid, length) for uid, length, _ in seen)
                if self.allocation is not None:
                    self.allocation.observe((uid, accuracy) for uid, _, accuracy in seen)
            if rounds == self.dynamic.max_rounds or not any(missing) or self.stream.exhausted:
                break
            prompts = self.stream.further(missing)
        order = list(range(len(drawn)))
        if self.dynamic.max_rounds > 1:
            order.sort(key=lambda index: not self.has_contrast(drawn[index]))
        batch = collate(
            [drawn[index] for index in sorted(order[:wanted])],
            pad_token_id=self.pad_token_id,
            timings=dict(timings),
        )
        if self.probe is not None:
            batch = self.probed(batch, *self.probe)
        dropped = tuple(drawn[index].outcome for index in sorted(order[wanted:]))
        return replace(batch, dropped=dropped, sampling_rounds=rounds)

    def probed(self, batch: RolloutBatch, prompts: Sequence[Prompt], samples: int) -> RolloutBatch:
        """`batch` with the probe questions answered, `samples` times each: this rank's by its engine."""
        seed = derived_seed(self.sampling.seed, "probe", self.rollout_step)
        sampling = replace(self.sampling, completions=samples, seed=seed)
        scored, seconds = rollout(self.engine, self.verifier, prompts, sampling)
        begin = time.perf_counter()
        with record_function("ceeh/waiting"):
            ranks = self.gather([group.outcome for group in scored])
        now = time.perf_counter()
        timings = Counter(batch.timings)
        timings.update({"probe": sum(seconds.values()), "waiting": now - begin})
        probe = tuple(outcome for rank in ranks for outcome in rank)
        return replace(batch, probe=probe, timings=dict(timings), ready_at=now)

    def sampling_of(self, rounds: int) -> Sampling:
        """This step's sampling in its first, second ... round: each has its own seed."""
        parts = ("rollout", self.rollout_step) + ((rounds,) if rounds > 1 else ())
        return replace(self.sampling, seed=derived_seed(self.sampling.seed, *parts))

    def has_contrast(self, group: ScoredGroup) -> bool:
        return has_contrast(group.outcome, self.dynamic.limit_tokens)

    def state_dict(self) -> dict[str, Any]:
        state = {"rollout_step": self.rollout_step, "stream": self.stream.state_dict()}
        if self.allocation is not None:
            state["allocation"] = self.allocation.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rollout_step = state["rollout_step"]
        self.stream.load_state_dict(state["stream"])
        if self.allocation is not None and "allocation" in state:
            self.allocation.load_state_dict(state["allocation"])


class HeldOutLoader:
    """Every held-out prompt of this rank once, in order, at most `prompts_per_batch` at a time.

    Rank r of w has every w-th prompt, starting with the r-th, and at least one: Lightning would skip the
    validation of a rank without any, and the others' collectives would wait for it. All ranks have the same
    number of batches, because forward passes of sharded weights are collective. A batch's
    `question_indices` are its prompts' places in `prompts`.
    """

    def __init__(
        self,
        *,
        engine: RolloutEngine,
        verifier: Verifier,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        prompts_per_batch: int,
        pad_token_id: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.engine = engine
        self.verifier = verifier
        self.prompts = prompts
        assert len(prompts) >= world_size, "each rank needs a held-out question"
        own = range(rank, len(prompts), world_size)
        chunks = equal_batches(own, len(prompts), size=prompts_per_batch, world_size=world_size)
        self.chunks = [tuple(chunk) for chunk in chunks]
        self.sampling = sampling
        self.pad_token_id = pad_token_id

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[RolloutBatch]:
        for chunk in self.chunks:
            prompts = [self.prompts[index] for index in chunk]
            scored, seconds = rollout(self.engine, self.verifier, prompts, self.sampling)
            batch = collate(scored, pad_token_id=self.pad_token_id, timings=seconds)
            yield replace(batch, question_indices=chunk)
