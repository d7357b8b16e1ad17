"""A verifier class of the user's own, in the training process: what it returns is checked before use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import NoReturn

from ceeh.data.verify.base import Verifier
from ceeh.errors import ConfigError
from ceeh.types import Completion, Outcome, Prompt, RolloutGroup, ScoredGroup, Verdict

CURE = (
    "; a verifier of one's own runs in the training process, so the run stops: correct it and continue"
    " with ckpt_path=last, or give a function of prompt and response to"
    " ceeh.data.verify.RewardFunction, whose failures cost one answer each"
)


class CheckedVerifier:
    """`verifier`, called `name` in errors. Raises ConfigError where it fails or returns nonsense."""

    def __init__(self, verifier: Verifier, name: str) -> None:
        self.verifier = verifier
        self.name = name

    def __call__(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        with self._told("call"):
            scored = self.verifier(groups)
        if not isinstance(scored, list) or len(scored) != len(groups):
            found = f"{len(scored)}" if isinstance(scored, list) else f"a {type(scored).__name__}"
            self._refuse(f"must return a list of {len(groups)} scored groups, got {found}")
        for group, given in zip(groups, scored, strict=True):
            if not isinstance(given, ScoredGroup) or given.group is not group:
                self._refuse(f"must return the group of '{group.prompt.uid}' scored, in its place")
            for verdict in given.verdicts:
                if not well_formed(verdict):
                    self._refuse(
                        "must give Verdicts with a score in [0, 1] and an Outcome, got"
                        f" {verdict!r:.80} for '{group.prompt.uid}'"
                    )
        return scored

    def answer(self, completion: Completion) -> str | None:
        with self._told("answer"):
            return self.verifier.answer(completion)

    def unreadable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        with self._told("unreadable"):
            return self.verifier.unreadable(prompts)

    def close(self) -> None:
        with self._told("close"):
            self.verifier.close()

    def _refuse(self, words: str) -> NoReturn:
        raise ConfigError(f"verifier: {self.name} {words}{CURE}")

    @contextmanager
    def _told(self, method: str) -> Iterator[None]:
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:  # the user's code
            raise ConfigError(
                f"verifier: {self.name} failed in {method} with {type(error).__name__}: {error}{CURE}"
            ) from error


def well_formed(verdict: object) -> bool:
    return (
        isinstance(verdict, Verdict)
        and isinstance(verdict.score, Real)
        and 0 <= verdict.score <= 1
        and isinstance(verdict.outcome, Outcome)
    )
