"""Builds the configured verifier, guards a custom one, and drops prompts that it cannot grade."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from inspect import isfunction
from numbers import Real

from ceeh.config.component import Component
from ceeh.data.verify.base import Verifier
from ceeh.errors import RESUME, ConfigError, user_code
from ceeh.runtime.distributed import from_rank_zero
from ceeh.runtime.text import show
from ceeh.types import Completion, GradingOutcome, Prompt, RolloutGroup, ScoredGroup, Verdict

CURE = (
    "; a custom verifier runs in the main process, which stops: fix it, or pass a function of prompt and"
    f" response to ceeh.data.verify.RewardFunction, where a failure costs one answer, {RESUME}"
)


def build_verifier(component: Component) -> Verifier:
    if isfunction(component.imported("verifier")):
        raise ConfigError(
            f"verifier.class_path: {component.class_path} is a function; give it to a verifier of"
            " functions: verifier.class_path=ceeh.data.verify.RewardFunction"
            f" verifier.init_args.class_path={component.class_path}"
        )
    verifier = component.build("verifier")
    if not isinstance(verifier, Verifier):
        raise ConfigError(
            f"verifier: {component.class_path} is not a Verifier (ceeh.data.verify), which is callable"
            " and has answer, unreadable and close; pass a function of prompt and response to"
            " ceeh.data.verify.RewardFunction"
        )
    if type(verifier).__module__.startswith("ceeh."):
        return verifier
    return CheckedVerifier(verifier)


class CheckedVerifier:
    """A custom verifier. Raises ConfigError if it fails or returns invalid verdicts."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        with self._guard("call"):
            scored = self.verifier(groups)
        if wrong := first_mistake(groups, scored):
            raise ConfigError(f"verifier: {type(self.verifier).__name__} must return {wrong}{CURE}")
        return scored

    def answer(self, completion: Completion) -> str | None:
        with self._guard("answer"):
            return self.verifier.answer(completion)

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        with self._guard("unreadable"):
            return self.verifier.unreadable(prompts)

    def close(self) -> None:
        with self._guard("close"):
            self.verifier.close()

    def _guard(self, method: str) -> AbstractContextManager[None]:
        name = type(self.verifier).__name__
        return user_code(self.verifier, f"verifier: {name} failed in {method}{CURE}")


def first_mistake(groups: Sequence[RolloutGroup], scored: object) -> str:
    """What `scored` should have been instead; empty when it is valid."""
    if not isinstance(scored, list) or len(scored) != len(groups):
        found = f"{len(scored)}" if isinstance(scored, list) else f"a {type(scored).__name__}"
        return f"a list of {len(groups)} scored groups, got {found}"
    for group, given in zip(groups, scored, strict=True):
        if not isinstance(given, ScoredGroup) or given.group is not group:
            return f"the scored group of '{group.prompt.uid}' in its place"
        for v in given.verdicts:
            valid = isinstance(v, Verdict) and isinstance(v.outcome, GradingOutcome)
            if not valid or not isinstance(v.score, Real) or not 0 <= v.score <= 1:
                return (
                    "Verdicts with a score in [0, 1] and a GradingOutcome,"
                    f" got {v!r:.80} for '{group.prompt.uid}'"
                )
    return ""


def drop_unverifiable(prompts: Sequence[Prompt], verifier: Verifier, place: str) -> list[Prompt]:
    """The prompts whose reference `verifier` can read. Rank 0 decides and warns about the others.

    Raises ConfigError on all ranks when none is left.
    """

    def decide() -> set[str]:
        dropped = verifier.unreadable(prompts)
        if not dropped:
            return set()
        first = f"first '{dropped[0].uid}' with the reference {show(dropped[0].answer)}"
        if len(dropped) == len(prompts):
            raise ConfigError(
                f"{place}: the verifier cannot read the reference of any of its {len(prompts)} prompts"
                f" ({first}); map the column that holds only the final answer, or choose another"
                " verifier"
            )
        warnings.warn(
            f"{place}: dropped {len(dropped)} of {len(prompts)} prompts whose reference the verifier"
            f" cannot read ({first})",
            stacklevel=4,
        )
        return {prompt.uid for prompt in dropped}

    uids = from_rank_zero(decide)
    return [prompt for prompt in prompts if prompt.uid not in uids]
