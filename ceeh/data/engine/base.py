"""What the trainer asks of an engine that generates rollouts; `VLLMEngine` is the one that ships."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from ceeh.types import Completion, Prompt, RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample: `completions` per prompt, each at most `max_tokens` long.

    `seed` with `per_request` derives one seed per (seed, prompt uid), so a prompt's rollouts do not
    depend on its neighbors; without, one engine-wide generator is seeded once per call (faster).
    """

    completions: int
    temperature: float
    max_tokens: int
    top_p: float = 1.0
    seed: int = 0
    seeds: Literal["request", "step"] = "request"


@runtime_checkable
class RolloutEngine(Protocol):
    """An engine in this process. Token ids in, token ids and sampling log-probs out."""

    @property
    def policy_version(self) -> int:
        """Optimizer steps of the weights held now; -1 until the first push."""
        ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        """One group per prompt, in the order given."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *, policy_version: int) -> None:
        """Replaces every weight, names in the Hugging Face spelling, and forgets cached prefixes."""
        ...

    def canary(self, *, temperature: float) -> tuple[tuple[int, ...], Completion]:
        """A short fixed prompt's token ids and a completion of it, to hold against the trainer."""
        ...

    def sleep(self) -> None:
        """Frees device memory between rollouts where the platform can; otherwise does nothing."""
        ...

    def wake(self) -> None:
        """Undoes `sleep`; called before a push and before generation."""
        ...

    def close(self) -> None:
        """Releases the engine. Harmless when called twice."""
        ...
