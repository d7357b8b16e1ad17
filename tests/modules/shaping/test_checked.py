"""A user's length reward: tried at the start, guarded in the run, one sentence per mistake."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from ceeh.config.component import Component
from ceeh.config.objective import Objective
from ceeh.config.settings import Config
from ceeh.errors import ConfigError
from ceeh.modules.shaping.base import NoShaping
from ceeh.modules.shaping.checked import build_shaping, trial_inputs


@dataclass
class Mine:
    """Does as `how` says; `trial` wrong things only happen after the trial."""

    reads: Any = ("optimal_length",)
    how: Any = None
    after: int = 0
    calls: int = 0

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        if self.calls <= self.after:
            return inputs.scores
        return eval(self.how, {"inputs": inputs, "torch": torch})


class Measured(Mine):
    def metrics(self, inputs: Any) -> Any:
        return {"unknown": torch.full_like(inputs.scores, math.nan), "cut": inputs.scores[:1]}


class NoReads:
    def __call__(self, inputs: Any) -> Any:
        return inputs.scores


class NotCallable:
    reads = ()


def built(name: str, **arguments: Any) -> Any:
    component = Component(f"{__name__}.{name}", arguments)
    return build_shaping(Config(objective=Objective(shaping=component)))


GOOD = "inputs.scores - 0.1 * inputs.lengths / inputs.signal('optimal_length')"


def test_a_users_reward_is_used_as_it_is_and_ceehs_own_are_not_wrapped() -> None:
    inputs = trial_inputs(("optimal_length",))
    shaping = built("Mine", how=GOOD)
    assert torch.equal(shaping(inputs), inputs.scores - 0.1 * inputs.lengths)
    assert shaping.reads == ("optimal_length",)
    assert shaping.metrics(inputs) == {}
    assert built("Mine", how="inputs.correct")(inputs).dtype == torch.float32
    own = Config(objective=Objective(shaping=Component("ceeh.modules.shaping.NoShaping")))
    assert isinstance(build_shaping(own), NoShaping)


MISTAKES = {
    "inputs.scores[:1]": r"a reward per row, a tensor of shape \[6\], got shape \[1\]",
    "inputs.scores.tolist()": r"a tensor of shape \[6\], got a list",
    "inputs.scores / 0": "must return finite rewards, got inf for a response of 3 tokens with the "
    "score 1 and the signals optimal_length = 1;",
    "inputs.nothing": r"failed in __call__; .*\(AttributeError.*nothing.*<string> line 1\)",
    "inputs.signal('hard')": r"failed in __call__.*'hard', which no callback wrote",
}


@pytest.mark.parametrize("how", MISTAKES)
def test_a_mistake_is_named_before_the_run_and_in_it(how: str) -> None:
    with pytest.raises(ConfigError, match=f"^objective.shaping: .*Mine .*{MISTAKES[how]}"):
        built("Mine", how=how)
    shaping = built("Mine", how=how, after=1)  # passes the trial
    with pytest.raises(ConfigError, match=MISTAKES[how]):
        shaping(trial_inputs(("optimal_length",)))


def test_a_reward_that_is_nan_where_nothing_is_known_is_named_with_its_signal() -> None:
    shaping = built("Mine", how=GOOD)
    unknown = {"optimal_length": torch.tensor([math.nan, 1.0])}
    with pytest.raises(
        ConfigError, match=r"got nan .* optimal_length = nan; a signal is NaN where"
    ):
        shaping(replace(trial_inputs(()), signals=unknown))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("NoReads", {}, "has reads = None and is callable; a length reward"),
        ("NotCallable", {}, r"has reads = \(\) and is not callable"),
        ("Mine", {"reads": "hard", "how": GOOD}, "has reads = 'hard' and is callable"),
    ],
)
def test_a_class_that_is_no_length_reward_is_refused(
    name: str, arguments: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^objective.shaping: .*{name} {message}"):
        built(name, **arguments)


def test_metrics_may_be_nan_but_have_a_value_per_row() -> None:
    shaping = built("Measured", how=GOOD)
    with pytest.raises(ConfigError, match=r"a value of 'cut' per row, a tensor of shape \[6\]"):
        shaping.metrics(trial_inputs(("optimal_length",)))
