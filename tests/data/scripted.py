"""A loader over 24 prompts whose engine answers by a script: none, one or both of two responses correct."""

from collections.abc import Callable, Sequence
from typing import Any

from ceeh.config.rollouts import DynamicSampling
from ceeh.data.allocation import Knapsack
from ceeh.data.batch import RolloutBatch
from ceeh.data.engine.base import Sampling
from ceeh.data.loader import RolloutLoader
from ceeh.data.stream import PromptStream
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.types import Prompt, RolloutGroup
from tests.groups import make_completion, make_group, make_prompt

PROMPTS = [make_prompt(f"u{number}") for number in range(24)]


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
