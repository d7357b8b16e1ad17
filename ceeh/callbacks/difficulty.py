"""RollingDifficulty: which questions are hard for the current policy, by their history."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ceeh.callbacks.signal import SignalCallback
from ceeh.callbacks.table import QuestionTable
from ceeh.evaluation.metrics import hard_below
from ceeh.types import GroupOutcome

BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Edges of the logged histogram of accuracy histories."""


class RollingDifficulty(SignalCallback):
    """`accuracy_history` Acc_h(x), and `hard`: 1 where that is 0, or below its mean over all seen.

        Acc_h <- (1 - eta) Acc_h + eta Acc,  eta = rise if Acc > Acc_h else fall

    Acc is the group's accuracy; the threshold moves with the policy. CEEH eq. 9, 10, 15, 16,
    https://arxiv.org/abs/2602.22642. A question seen for the first time has no history: it is not in the
    mean, and both signals come from its own group (Acc_h = Acc). In the first step no question has a
    history, and the mean is over the step's groups.
    """

    writes = ("accuracy_history", "hard")
    may_be_undefined = ("accuracy_history",)

    def __init__(self, rise: float = 0.2, fall: float = 0.05) -> None:
        for name, rate in (("rise", rise), ("fall", fall)):
            if not 0 < rate <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {rate}")
        self.rise = rise
        self.fall = fall
        self.history = QuestionTable()
        self.first: dict[str, float] = {}
        self._mean: float | None = None

    @property
    def threshold(self) -> float:
        """Mean accuracy history, which decides what is hard; NaN before the first group."""
        if self._mean is None:
            first = list(self.first.values())
            if len(self.history):
                self._mean = self.history.mean()
            else:
                self._mean = sum(first) / len(first) if first else float("nan")
        return self._mean

    def before_step(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.first = {
            outcome.uid: outcome.accuracy for outcome in outcomes if outcome.uid not in self.history
        }
        if not len(self.history):
            self._mean = None

    def read(self, uid: str) -> Mapping[str, float]:
        accuracy = self.history[uid]
        if math.isnan(accuracy):
            accuracy = self.first.get(uid, math.nan)
        return {"accuracy_history": accuracy, "hard": float(accuracy < hard_below(self.threshold))}

    def observe(self, outcome: GroupOutcome) -> None:
        accuracy, history = outcome.accuracy, self.history[outcome.uid]
        if not math.isnan(history):
            rate = self.rise if accuracy > history else self.fall
            accuracy = (1 - rate) * history + rate * accuracy
        self.history[outcome.uid] = accuracy
        self._mean = None

    def metrics(self) -> Mapping[str, float]:
        bins = zip(BINS[:-1], BINS[1:], self.history.histogram(BINS), strict=True)
        return {
            "hard_fraction": self.history.fraction_below(hard_below(self.threshold)),
            "accuracy_history_mean": self.threshold,
            "questions_seen": float(len(self.history)),
        } | {
            f"accuracy_history_{100 * low:.0f}_{100 * high:.0f}": share for low, high, share in bins
        }

    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.load_state_dict(state_dict)
        self._mean = None
