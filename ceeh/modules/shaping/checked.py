"""A user's length reward, guarded: what it declares, returns and raises. Axes: P prompts, R rows."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ceeh.config.settings import Config
from ceeh.errors import ConfigError, user_code
from ceeh.modules.shaping.base import Shaping, ShapingInputs

INTERFACE = (
    'a length reward (ceeh.modules.shaping.Shaping) has reads, e.g. reads = ("optimal_length",) or (),'
    " and __call__(inputs) that returns a reward per row"
)
CURE = "; if the run had started, fix it and resume with ckpt_path=last"


class CheckedShaping:
    """`shaping` after a trial on made-up rows. Raises ConfigError if it fails or returns no rewards."""

    def __init__(self, shaping: Any, class_path: str) -> None:
        reads: Any = getattr(shaping, "reads", None)
        named = isinstance(reads, tuple | list) and all(isinstance(name, str) for name in reads)
        if not callable(shaping) or not named:
            raise ConfigError(
                f"objective.shaping: {class_path} has reads = {reads!r} and is "
                f"{'' if callable(shaping) else 'not '}callable; {INTERFACE}"
            )
        self.shaping: Any = shaping
        self.reads = tuple(reads)
        self.name = class_path
        self(trial_inputs(self.reads))

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        with self.guard("__call__"):
            rewards = self.shaping(deepcopy(inputs))  # it may work in place
        self.check(rewards, inputs, "a reward", may_be_nan=False)
        return rewards.detach().to(inputs.scores)

    def metrics(self, inputs: ShapingInputs) -> Mapping[str, Float[Tensor, " R"]]:
        """The metrics of the user's class, checked; none where it has none."""
        if not callable(getattr(self.shaping, "metrics", None)):
            return {}
        with self.guard("metrics"):
            values = dict(self.shaping.metrics(deepcopy(inputs)))
        for name, value in values.items():
            self.check(value, inputs, f"a value of '{name}'", may_be_nan=True)
        return values

    def guard(self, method: str) -> AbstractContextManager[None]:
        return user_code(self.shaping, f"objective.shaping: {self.name} failed in {method}{CURE}")

    def check(self, values: Any, inputs: ShapingInputs, what: str, *, may_be_nan: bool) -> None:
        rows = len(inputs.scores)
        if not isinstance(values, Tensor) or values.shape != inputs.scores.shape:
            shape = f"shape {list(values.shape)}" if isinstance(values, Tensor) else ""
            raise ConfigError(
                f"objective.shaping: {self.name} must return {what} per row, a tensor of shape [{rows}], "
                f"got {shape or f'a {type(values).__name__}'}{CURE}"
            )
        good = values.isfinite() | (values.isnan() if may_be_nan else False)
        if not good.all():
            row = int((~good).nonzero()[0, 0])
            raise ConfigError(
                f"objective.shaping: {self.name} must return finite rewards, got {float(values[row])} for "
                f"a response of {int(inputs.lengths[row])} tokens with the score "
                f"{float(inputs.scores[row]):g} and the signals {self.signals(inputs, row)}; a signal "
                f"is NaN where nothing is known of a question{CURE}"
            )

    def signals(self, inputs: ShapingInputs, row: int) -> str:
        read = [f"{name} = {float(inputs.signal(name)[row]):g}" for name in self.reads]
        return ", ".join(read) or "none"


def build_shaping(config: Config) -> Shaping:
    """The class of `objective.shaping`, given `max_response_tokens` if it asks for it.

    A user's class is guarded. Raises ConfigError for one that is no length reward.
    """
    component = config.objective.shaping
    shaping = component.build(
        "objective.shaping", max_response_tokens=config.rollouts.max_response_tokens
    )
    if type(shaping).__module__.startswith("ceeh."):
        return shaping
    return CheckedShaping(shaping, component.class_path)


def trial_inputs(reads: tuple[str, ...]) -> ShapingInputs:
    """Two questions of three responses, one of them never answered correctly; every signal is 1."""
    correct = torch.tensor([True, True, False, False, False, False])
    return ShapingInputs(
        scores=correct.float(),
        correct=correct,
        lengths=torch.tensor([3, 5, 9, 4, 4, 9]),
        finished=torch.tensor([True, True, False, True, True, False]),
        answered=torch.tensor([True, True, False, True, True, False]),
        group=torch.tensor([0, 0, 0, 1, 1, 1]),
        num_prompts=2,
        signals={name: torch.ones(2) for name in reads},
        progress=0.0,
    )
