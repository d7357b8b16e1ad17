"""ReleasedDifficulty: which questions are hard as CEEH's released code has it, not its paper."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ceeh.callbacks.signal import SignalCallback
from ceeh.config.rules import at_least, check
from ceeh.runtime.table import QuestionTable
from ceeh.types import GroupOutcome


class ReleasedDifficulty(SignalCallback):
    """`hard`: 1 where Acc(x), of the step's own group, is at most the mean record; and the record itself.

    A record starts at -1, which counts in the mean over all `questions` of the training set, is replaced
    while it is at most 0, and then follows Acc as in `RollingDifficulty`. `accuracy_history` is the record,
    NaN while it is -1: the gate is open in both cases. The trainer of https://github.com/QinwenLuo/CEEH;
    `RollingDifficulty` is the paper's rule.
    """

    writes = ("accuracy_history", "hard")
    may_be_undefined = ("accuracy_history",)

    def __init__(self, questions: int, rise: float = 0.2, fall: float = 0.05) -> None:
        check(at_least(1), questions=questions)
        self.questions = questions
        self.rise = rise
        self.fall = fall
        self.record = QuestionTable()
        self.groups: dict[str, float] = {}
        self._mean = -1.0

    @property
    def mean(self) -> float:
        """Mean record over the training set; Acc is compared with it before this step's update."""
        seen = len(self.record)
        known = self.record.mean() * seen if seen else 0.0
        return (known - (self.questions - seen)) / self.questions

    def before_step(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.groups = {outcome.uid: outcome.accuracy for outcome in outcomes}
        self._mean = self.mean

    def read(self, uid: str) -> Mapping[str, float]:
        hard = float(self.groups[uid] <= self._mean)
        return {"accuracy_history": self.record[uid], "hard": hard}

    def observe(self, outcome: GroupOutcome) -> None:
        accuracy, record = outcome.accuracy, self.record[outcome.uid]
        if not math.isnan(record) and record > 0:
            rate = self.rise if accuracy > record else self.fall
            accuracy = (1 - rate) * record + rate * accuracy
        self.record[outcome.uid] = accuracy
        if len(self.record) > self.questions:
            raise ValueError(
                f"questions is {self.questions}, but {len(self.record)} were seen; set it to the number of "
                "training questions"
            )

    def metrics(self) -> Mapping[str, float]:
        hard = sum(accuracy <= self._mean for accuracy in self.groups.values())
        return {
            "hard_fraction": hard / len(self.groups),
            "hard_threshold": self._mean,
            "questions_seen": float(len(self.record)),
        }

    def state_dict(self) -> dict[str, Any]:
        return self.record.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.record.load_state_dict(state_dict)
