"""The interface of an engine that generates rollouts; `VLLMEngine` implements it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from ceeh.types import Completion, Prompt, RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample: `completions` per prompt, or a number for each, at most `max_tokens` long.

    With `seeds` "request" each prompt has a seed derived from (seed, uid), so its rollouts do not depend on
    its neighbors; with "step" one rng is seeded once per call, which is faster.
    """

    completions: int | tuple[int, ...]
    temperature: float
    max_tokens: int
    top_p: float = 1.0
    seed: int = 0
    seeds: Literal["request", "step"] = "request"

    def counts(self, prompts: int) -> Sequence[int]:
        """The completions of each of that many prompts. Raises ValueError for another number of them."""
        if isinstance(self.completions, int):
            return [self.completions] * prompts
        if len(self.completions) != prompts:
            raise ValueError(
                f"{len(self.completions)} numbers of completions for {prompts} prompts"
            )
        return self.completions


@runtime_checkable
class RolloutEngine(Protocol):
    """An engine in this process. Token ids in, token ids and sampling log-probs out."""

    @property
    def policy_version(self) -> int:
        """Optimizer steps of the current weights; -1 until the first push."""
        ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        """One group per prompt, in the same order. Long ones call `ceeh.runtime.shutdown.check` meanwhile.

        All ranks make the same calls, for engines that several ranks share: a rank may have no prompt in one.
        """
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *, policy_version: int) -> None:
        """Replaces every weight, by its Hugging Face name, and drops cached prefixes."""
        ...

    def canary(self, *, temperature: float) -> tuple[tuple[int, ...], Completion]:
        """A short fixed prompt's token ids and a completion of it, to compare with the trainer."""
        ...

    def sleep(self) -> None:
        """Frees device memory between rollouts, if the platform can."""
        ...

    def wake(self) -> None:
        """Undoes `sleep`; called before a push and before generation."""
        ...

    def close(self) -> None:
        """Releases the engine. May be called twice."""
        ...
