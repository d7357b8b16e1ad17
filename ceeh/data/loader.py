"""The rollout stream: each `next` asks the engine for one step's rollouts, scores and collates them.

Both loaders have a length. Without one Lightning would fetch a batch ahead, and every rollout would
be one policy version stale.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ceeh.data.collate import collate
from ceeh.data.engine import RolloutEngine, Sampling
from ceeh.data.prompts import PromptStream
from ceeh.data.verify import Verifier
from ceeh.types import Prompt, RolloutBatch


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2^63) that depends on every part and on nothing else."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rollout(
    engine: RolloutEngine,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    pad_token_id: int,
) -> RolloutBatch:
    """Generates, scores and collates; the batch carries the seconds that each took."""
    begin = time.perf_counter()
    groups = engine.generate(prompts, sampling)
    generated = time.perf_counter()
    scored = verifier(groups)
    timings = {"generate": generated - begin, "score": time.perf_counter() - generated}
    return collate(scored, pad_token_id=pad_token_id, timings=timings)


class RolloutLoader:
    """`steps` training batches, each sampled by the weights that the engine holds when it is asked."""

    def __init__(
        self,
        *,
        engine: RolloutEngine,
        verifier: Verifier,
        stream: PromptStream,
        sampling: Sampling,
        steps: int,
        pad_token_id: int,
    ) -> None:
        self.engine = engine
        self.verifier = verifier
        self.stream = stream
        self.sampling = sampling
        self.steps = steps
        self.pad_token_id = pad_token_id
        self.rollout_step = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[RolloutBatch]:
        while self.rollout_step < self.steps:
            sampling = replace(
                self.sampling, seed=derived_seed(self.sampling.seed, "rollout", self.rollout_step)
            )
            prompts = self.stream.next_step()
            self.rollout_step += 1
            yield rollout(self.engine, self.verifier, prompts, sampling, self.pad_token_id)

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
            yield rollout(self.engine, self.verifier, chunk, self.sampling, self.pad_token_id)
