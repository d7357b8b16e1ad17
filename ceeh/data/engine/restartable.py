"""An engine that is built anew when it fails, once."""

import gc
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.errors import RunError, first_line
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import world_size
from ceeh.types import Completion, Prompt, RolloutGroup

T = TypeVar("T")
Weights = Callable[[], Iterable[tuple[str, Tensor]]]

TRIED_AFTER = 50
"""Generations without a failure after which an engine that was built anew may be so again."""


class RestartableEngine:
    """`RolloutEngine` around the one that `build` makes; `weights` are the present ones, named as in a push.

    What that one raises at work (out of memory, a lost device) closes it; another is built, takes the
    present weights and is asked again, with a warning. With a seed per request its answers are those that
    the first would have given. RunError is raised when it fails, too, before it has generated TRIED_AFTER
    times, and at once with several processes: an engine is built by all of them together, and the others
    are elsewhere. ValueError is let through: what was asked is wrong, and would be again. Without `weights`
    an engine keeps those that it reads when it is built.
    """

    def __init__(self, build: Callable[[], RolloutEngine], weights: Weights | None) -> None:
        self.build = build
        self.weights = weights
        self.rebuilt = 0
        self._engine = build()
        self._on_trial = 0

    @property
    def policy_version(self) -> int:
        return self._engine.policy_version

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        doing = f"sampling {sampling.completions} completions of {len(prompts)} prompts"
        groups = self._ask(lambda engine: engine.generate(prompts, sampling), doing)
        self._on_trial = max(0, self._on_trial - 1)
        return groups

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *, policy_version: int) -> None:
        doing = f"taking the weights of policy version {policy_version}"
        try:
            self._engine.load_weights(weights, policy_version=policy_version)
        except Exception as error:
            self._rebuild(error, doing, policy_version)

    def canary(self, *, temperature: float) -> tuple[tuple[int, ...], Completion]:
        return self._ask(lambda engine: engine.canary(temperature=temperature), "a first sample")

    def sleep(self) -> None:
        self._ask(lambda engine: engine.sleep(), "going to sleep")

    def wake(self) -> None:
        self._ask(lambda engine: engine.wake(), "waking up")

    def close(self) -> None:
        self._engine.close()

    def _ask(self, question: Callable[[RolloutEngine], T], doing: str) -> T:
        version = self._engine.policy_version
        try:
            return question(self._engine)
        except Exception as error:
            self._rebuild(error, doing, version)
        try:
            return question(self._engine)
        except Exception as error:
            if _is_let_through(error):
                raise
            self._give_up(error, f"failed twice, the second time while {doing}")

    def _rebuild(self, error: Exception, doing: str, policy_version: int) -> None:
        """Another engine with the present weights, if `error` is one that this may cure."""
        if _is_let_through(error):
            raise error
        if self._on_trial:
            self._give_up(error, f"failed twice, the second time while {doing}")
        if world_size() > 1:
            self._give_up(error, f"failed while {doing}")
        self.rebuilt, self._on_trial = self.rebuilt + 1, TRIED_AFTER
        warnings.warn(
            f"the engine failed while {doing} ({_told(error)}); it is built anew with the present weights, "
            f"for the {_ordinal(self.rebuilt)} time",
            stacklevel=4,
        )
        # The frames of the failure hold on to its memory.
        error.__traceback__ = None
        with suppress(Exception):
            self._engine.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            self._engine = self.build()
            if self.weights is not None and policy_version >= 0:
                self._engine.load_weights(self.weights(), policy_version=policy_version)
        except Exception as second:
            self._give_up(second, f"failed while {doing} and could not be built anew")

    def _give_up(self, error: Exception, words: str) -> NoReturn:
        raise RunError(
            f"the engine {words} ({_told(error)}). If memory ran out, lower engine.init_args.kv_cache_gib or "
            "optimizer.tokens_per_microbatch; then continue with ckpt_path=last"
        ) from error


def _is_let_through(error: Exception) -> bool:
    return isinstance(error, ValueError | RunError) or shutdown.requested() is not None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
