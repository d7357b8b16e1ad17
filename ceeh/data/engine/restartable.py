"""An engine that is restarted after a failure."""

import gc
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from ceeh.config.component import Component
from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.errors import RESUME, RunError, first_line
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import world_size
from ceeh.types import Completion, Prompt, RolloutGroup

T = TypeVar("T")
Weights = Callable[[], Iterable[tuple[str, Tensor]]]

TRIED_AFTER = 50
"""Generations without a failure after which a restarted engine may be restarted again."""


def build_engine(
    component: Component, context: Mapping[str, Any], weights: Weights | None
) -> "RestartableEngine":
    """The engine that `component` names; it restarts with the current `weights` if it fails."""
    return RestartableEngine(lambda: component.build("engine", **context), weights)


class RestartableEngine:
    """`RolloutEngine` around the one that `build` returns; `weights` returns the current ones, as for a push.

    An error in a call (out of memory, a lost device) closes the engine and prints a warning; a new one gets
    the current weights and the same call. With a seed per request it gives the same answers. RunError is
    raised when the new engine fails before it has generated TRIED_AFTER times, and at once with several
    processes, which can only start engines together. ValueError passes through: the call itself was wrong.
    Without `weights` an engine keeps those that it loads when it is built.
    """

    def __init__(self, build: Callable[[], RolloutEngine], weights: Weights | None) -> None:
        self.build = build
        self.weights = weights
        self.restarts = 0
        self._engine = build()
        self._on_trial = 0

    @property
    def policy_version(self) -> int:
        return self._engine.policy_version

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        number = sum(sampling.counts(len(prompts)))
        doing = f"sampling {number} completions of {len(prompts)} prompts"
        groups = self._call(lambda engine: engine.generate(prompts, sampling), doing)
        self._on_trial = max(0, self._on_trial - 1)
        return groups

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *, policy_version: int) -> None:
        doing = f"loading the weights of policy version {policy_version}"
        try:
            self._engine.load_weights(weights, policy_version=policy_version)
        except Exception as error:
            self._restart(error, doing, policy_version)

    def canary(self, *, temperature: float) -> tuple[tuple[int, ...], Completion]:
        return self._call(
            lambda engine: engine.canary(temperature=temperature), "sampling the canary"
        )

    def sleep(self) -> None:
        self._call(lambda engine: engine.sleep(), "going to sleep")

    def wake(self) -> None:
        self._call(lambda engine: engine.wake(), "waking up")

    def close(self) -> None:
        self._engine.close()

    def _call(self, function: Callable[[RolloutEngine], T], doing: str) -> T:
        version = self._engine.policy_version
        try:
            return function(self._engine)
        except Exception as error:
            self._restart(error, doing, version)
        try:
            return function(self._engine)
        except Exception as error:
            if _passes_through(error):
                raise
            self._give_up(error, f"failed twice, the second time while {doing}")

    def _restart(self, error: Exception, doing: str, policy_version: int) -> None:
        """A new engine with the current weights, if that can cure `error`."""
        if _passes_through(error):
            raise error
        if self._on_trial:
            self._give_up(error, f"failed twice, the second time while {doing}")
        if world_size() > 1:
            self._give_up(error, f"failed while {doing}")
        self.restarts, self._on_trial = self.restarts + 1, TRIED_AFTER
        warnings.warn(
            f"the engine failed while {doing} ({_described(error)}); restarting it with the current weights "
            f"(restart {self.restarts} of this run)",
            stacklevel=4,
        )
        # The frames of the failure keep its memory.
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
            self._give_up(second, f"failed while {doing} and could not be restarted")

    def _give_up(self, error: Exception, words: str) -> NoReturn:
        raise RunError(
            f"the engine {words} ({_described(error)}). If memory ran out, lower "
            f"engine.init_args.kv_cache_gib, in a run also optimizer.tokens_per_microbatch, {RESUME}"
        ) from error


def _passes_through(error: Exception) -> bool:
    return isinstance(error, ValueError | RunError) or shutdown.requested() is not None


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
