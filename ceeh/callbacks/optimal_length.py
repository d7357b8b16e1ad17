"""OptimalLength: how long a correct answer to a question needs to be, from its past responses."""

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from operator import and_
from statistics import median
from typing import Any, Literal

from ceeh.callbacks.signal import SignalCallback
from ceeh.config.rules import UNIT_ABOVE_0, at_least, check, one_of
from ceeh.runtime.table import QuestionTable
from ceeh.types import GroupOutcome


def shortest_correct(outcome: GroupOutcome) -> float:
    """Tokens of the group's shortest correct, finished response; NaN without one."""
    counted = map(and_, outcome.correct, outcome.finished)
    return float(min(compress(outcome.lengths, counted), default=math.nan))


class OptimalLength(SignalCallback):
    """`optimal_length` L_x in tokens, NaN while no correct, finished response to x is known.

    l is the length of a group's shortest correct, finished response; a group without one changes nothing:

        minimum   L_x <- min(L_x, l)                                      CEEH eq. 13
        ema       L_x <- (1 - r) L_x + r l,  r = fall if l < L_x else rise   CEEH's released code
        median    L_x =  median of the last `window` values of l
        own_group L_x =  l of the group itself, NaN without one         ShorterBetter's SOL

    https://arxiv.org/abs/2602.22642. A question without a value gets that of its own group (L_x = l), so that
    the penalty acts from the first visit; later visits read the history only. With `from_own_group` false
    such a question reads NaN: HAPO's h, https://arxiv.org/abs/2505.11225. SOL:
    https://arxiv.org/abs/2504.21370.
    """

    writes = ("optimal_length",)
    may_be_undefined = ("optimal_length",)

    def __init__(
        self,
        rule: Literal["minimum", "ema", "median", "own_group"] = "minimum",
        rise: float = 0.05,
        fall: float = 0.2,
        window: int = 8,
        from_own_group: bool = True,
    ) -> None:
        check(one_of("minimum", "ema", "median", "own_group"), rule=rule)
        check(UNIT_ABOVE_0, rise=rise, fall=fall)
        check(at_least(1), window=window)
        self.rule = rule
        self.rise = rise
        self.fall = fall
        self.window = window
        self.from_own_group = from_own_group
        self.length = QuestionTable()
        self.recent: dict[str, list[int]] = {}
        self.first: dict[str, float] = {}

    def before_step(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.first = {
            outcome.uid: shortest_correct(outcome)
            for outcome in outcomes
            if self.rule == "own_group"
            or (self.from_own_group and math.isnan(self.length[outcome.uid]))
        }

    def read(self, uid: str) -> Mapping[str, float]:
        length = self.length[uid]
        if math.isnan(length) or self.rule == "own_group":
            length = self.first.get(uid, math.nan)
        return {"optimal_length": length}

    def observe(self, outcome: GroupOutcome) -> None:
        shortest = shortest_correct(outcome)
        length = self.length[outcome.uid]
        updated = length
        if not math.isnan(shortest):
            updated = self.updated(outcome.uid, length, shortest)
        if updated != length:  # also true if both are NaN: the question counts as seen
            self.length[outcome.uid] = updated

    def updated(self, uid: str, length: float, shortest: float) -> float:
        """L_x after a group whose shortest correct response had `shortest` tokens."""
        if self.rule == "median":
            self.recent[uid] = [*self.recent.get(uid, []), int(shortest)][-self.window :]
            return float(median(self.recent[uid]))
        if math.isnan(length) or self.rule == "own_group":
            return shortest
        if self.rule == "minimum":
            return min(length, shortest)
        rate = self.fall if shortest < length else self.rise
        return (1 - rate) * length + rate * shortest

    def metrics(self) -> Mapping[str, float]:
        coverage = {"optimal_length_coverage": self.length.num_known / len(self.length)}
        return coverage | (
            {"optimal_length_mean": self.length.mean()} if self.length.num_known else {}
        )

    def state_dict(self) -> dict[str, Any]:
        return self.length.state_dict() | {"rule": self.rule, "recent": self.recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError when the checkpoint's lengths follow another rule."""
        if state_dict["rule"] != self.rule:
            raise ValueError(
                f"OptimalLength.rule is '{self.rule}', but the checkpoint's lengths follow the rule "
                f"'{state_dict['rule']}'; resume with that rule"
            )
        self.length.load_state_dict(state_dict)
        self.recent = state_dict["recent"]
