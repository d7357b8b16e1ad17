"""RollingDifficulty: which questions are hard for the current policy, by their history."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ceeh.callbacks.signal import SignalCallback
from ceeh.config.rules import UNIT_ABOVE_0, check, one_of
from ceeh.evaluation.metrics import hard_below
from ceeh.runtime.table import QuestionTable
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

    `judged` is the accuracy that decides: Acc_h, that of the last visit, or that of the question's own group,
    which is compared with the others' histories. `threshold` is its mean, its median, its quantile `level`,
    or `level` itself.
    """

    writes = ("accuracy_history", "hard")
    may_be_undefined = ("accuracy_history",)

    def __init__(
        self,
        rise: float = 0.2,
        fall: float = 0.05,
        judged: Literal["history", "last_visit", "own_group"] = "history",
        threshold: Literal["mean", "median", "quantile", "fixed"] = "mean",
        level: float = 0.5,
    ) -> None:
        check(UNIT_ABOVE_0, rise=rise, fall=fall, level=level)
        check(one_of("history", "last_visit", "own_group"), judged=judged)
        check(one_of("mean", "median", "quantile", "fixed"), threshold=threshold)
        self.rise = rise
        self.fall = fall
        self.judged = judged
        self.rule = threshold
        self.level = 0.5 if threshold == "median" else level
        self.history = QuestionTable()
        # What `judged` says of each question; of its own group nothing is kept.
        self.known = QuestionTable() if judged == "last_visit" else self.history
        self.groups: dict[str, float] = {}
        self._threshold: float | None = None

    @property
    def threshold(self) -> float:
        """The accuracy below which a question is hard; NaN before the first group."""
        if self._threshold is None:
            table = self.known
            if not len(table):
                table = QuestionTable()
                for uid, accuracy in self.groups.items():
                    table[uid] = accuracy
            if self.rule == "fixed":
                self._threshold = self.level
            elif self.rule == "mean":
                self._threshold = table.mean()
            else:
                self._threshold = table.quantile(self.level)
        return self._threshold

    def before_step(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.groups = {outcome.uid: outcome.accuracy for outcome in outcomes}
        if not len(self.known):
            self._threshold = None

    def read(self, uid: str) -> Mapping[str, float]:
        own = self.groups.get(uid, math.nan)
        accuracy, judged = self.history[uid], self.known[uid]
        if math.isnan(accuracy):
            accuracy = own
        if math.isnan(judged) or self.judged == "own_group":
            judged = own
        return {"accuracy_history": accuracy, "hard": float(judged < hard_below(self.threshold))}

    def observe(self, outcome: GroupOutcome) -> None:
        accuracy, history = outcome.accuracy, self.history[outcome.uid]
        if self.judged == "last_visit":
            self.known[outcome.uid] = accuracy
        if not math.isnan(history):
            rate = self.rise if accuracy > history else self.fall
            accuracy = (1 - rate) * history + rate * accuracy
        self.history[outcome.uid] = accuracy
        self._threshold = None

    def metrics(self) -> Mapping[str, float]:
        limit = hard_below(self.threshold)
        hard = self.known.fraction_below(limit)
        if self.judged == "own_group":
            hard = sum(accuracy < limit for accuracy in self.groups.values()) / len(self.groups)
        bins = zip(BINS[:-1], BINS[1:], self.history.histogram(BINS), strict=True)
        return {
            "hard_fraction": hard,
            "hard_threshold": self.threshold,
            "accuracy_history_mean": self.history.mean(),
            "questions_seen": float(len(self.history)),
        } | {
            f"accuracy_history_{100 * low:.0f}_{100 * high:.0f}": share for low, high, share in bins
        }

    def state_dict(self) -> dict[str, Any]:
        last = {"last_visit": self.known.state_dict()} if self.judged == "last_visit" else {}
        return self.history.state_dict() | last

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError where `judged` needs accuracies that the checkpoint does not have."""
        self.history.load_state_dict(state_dict)
        if self.judged == "last_visit":
            if "last_visit" not in state_dict:
                raise ValueError(
                    "RollingDifficulty.judged is 'last_visit', but the checkpoint was written with another "
                    "value, without the accuracies of the last visits; resume with that value"
                )
            self.known.load_state_dict(state_dict["last_visit"])
        self._threshold = None
