"""The rollout stream: each `next` asks the engine for one step's rollouts, scores and collates them.

Both loaders have a length. Without one Lightning would fetch a batch ahead, and every rollout would
be one policy version stale.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch.profiler import record_function

from ceeh.config.settings import DynamicSampling
from ceeh.data.batch import RolloutBatch, collate
from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.data.prompts import PromptStream
from ceeh.data.verify.base import Verifier
from ceeh.runtime import shutdown
from ceeh.runtime.rng import derived_seed
from ceeh.types import GroupOutcome, Prompt, ScoredGroup


def rollout(
    engine: RolloutEngine, verifier: Verifier, prompts: Sequence[Prompt], sampling: Sampling
) -> tuple[Sequence[ScoredGroup], dict[str, float]]:
    """Generates and scores; the groups, and the seconds that each took."""
    shutdown.check()
    begin = time.perf_counter()
    with record_function("ceeh/generate"):
        groups = engine.generate(prompts, sampling)
    shutdown.check()
    generated = time.perf_counter()
    with record_function("ceeh/score"):
        scored = verifier(groups)
    return scored, {"generate": generated - begin, "score": time.perf_counter() - generated}


def has_contrast(outcome: GroupOutcome, limit_tokens: int | None) -> bool:
    """0 < right responses < G: DAPO eq. 11, https://arxiv.org/abs/2503.14476.

    With `limit_tokens` a right response that is longer counts as wrong, as DLER's truncation has it.
    """
    right = [
        correct and (limit_tokens is None or length <= limit_tokens)
        for correct, length in zip(outcome.correct, outcome.lengths, strict=True)
    ]
    return any(right) and not all(right)


class RolloutLoader:
    """`steps` training batches, each sampled by the weights that the engine holds when it is asked.

    Dynamic sampling (DAPO, section 3.2, https://arxiv.org/abs/2503.14476) is on when
    `dynamic.max_rounds` > 1: groups without contrast are dropped and as many further prompts drawn
    from the stream, in at most that many rounds of generation. What is missing then is made up from
    the dropped groups, first drawn first: a step always has its number of groups, so that all ranks
    take the same optimizer steps. Signals observe the dropped groups, too.

    A group whose responses are all right has no contrast, and yet it is where a length reward acts
    undisturbed: with one, dynamic sampling drops the questions that have most to give.
    Each rank fills its own share, so a step's groups depend on the number of ranks.
    `gather` gives a value of every rank, in rank order.
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
        gather: Callable[[int], list[int]],
    ) -> None:
        self.engine = engine
        self.verifier = verifier
        self.stream = stream
        self.sampling = sampling
        self.steps = steps
        self.pad_token_id = pad_token_id
        self.dynamic = dynamic
        self.gather = gather
        self.rollout_step = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[RolloutBatch]:
        while self.rollout_step < self.steps:
            batch = self.sample()
            self.rollout_step += 1
            yield batch

    def sample(self) -> RolloutBatch:
        """One step's batch: one round of generation, or as many as dynamic sampling takes."""
        prompts = self.stream.next_step()
        wanted, rounds, timings = len(prompts), 0, Counter[str]()
        drawn: list[ScoredGroup] = []
        while True:
            rounds += 1
            if prompts:  # a rank that has its share waits for the others
                groups, seconds = rollout(
                    self.engine, self.verifier, prompts, self.sampling_of(rounds)
                )
                drawn += groups
                timings.update(seconds)
            if rounds == self.dynamic.max_rounds:
                break
            missing = self.gather(wanted - sum(map(self.has_contrast, drawn)))
            if not any(missing) or self.stream.exhausted:
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
        dropped = tuple(drawn[index].outcome for index in sorted(order[wanted:]))
        return replace(batch, dropped=dropped, sampling_rounds=rounds)

    def sampling_of(self, rounds: int) -> Sampling:
        """How this step samples in its first, second ... round: each has a seed of its own."""
        parts = ("rollout", self.rollout_step) + ((rounds,) if rounds > 1 else ())
        return replace(self.sampling, seed=derived_seed(self.sampling.seed, *parts))

    def has_contrast(self, group: ScoredGroup) -> bool:
        return has_contrast(group.outcome, self.dynamic.limit_tokens)

    def state_dict(self) -> dict[str, Any]:
        return {"rollout_step": self.rollout_step, "stream": self.stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rollout_step = state["rollout_step"]
        self.stream.load_state_dict(state["stream"])


class HeldOutLoader:
    """Every held-out prompt once, in order, `prompts_per_batch` at a time."""

    def __init__(
        self,
        *,
        engine: RolloutEngine,
        verifier: Verifier,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        prompts_per_batch: int,
        pad_token_id: int,
    ) -> None:
        self.engine = engine
        self.verifier = verifier
        starts = range(0, len(prompts), prompts_per_batch)
        self.chunks = [prompts[start : start + prompts_per_batch] for start in starts]
        self.sampling = sampling
        self.pad_token_id = pad_token_id

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[RolloutBatch]:
        for chunk in self.chunks:
            scored, seconds = rollout(self.engine, self.verifier, chunk, self.sampling)
            yield collate(scored, pad_token_id=self.pad_token_id, timings=seconds)
