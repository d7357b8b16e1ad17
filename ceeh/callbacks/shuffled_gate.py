"""ShuffledGate: a control for the gate, which opens it for as many questions, drawn at random."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ceeh.callbacks.difficulty import RollingDifficulty
from ceeh.runtime.rng import derived_seed
from ceeh.types import GroupOutcome

OPEN, CLOSED = 0.0, 2.0
"""Histories that every accuracy reaches, and that none reaches."""
ROUNDING = 1e-6
"""Of a moving average; see `ceeh.modules.shaping.optimal_length.not_worse_than_history`."""


class ShuffledGate(RollingDifficulty):
    """`shuffled_history`: opens the gate for as many questions of a step as `accuracy_history` would.

    Which ones is drawn anew in each step: what the gate gains over this, it gains by its choice of questions.
    The mean penalty is a little smaller than the gate's, which opens for questions with more correct
    responses. Read it by `objective.shaping.init_args.history_signal`.
    """

    writes = (*RollingDifficulty.writes, "shuffled_history")

    def __init__(self, rise: float = 0.2, fall: float = 0.05, seed: int = 0) -> None:
        super().__init__(rise, fall)
        self.seed = seed
        self.steps = 0
        self.histories: dict[str, float] = {}

    def before_step(self, outcomes: Sequence[GroupOutcome]) -> None:
        super().before_step(outcomes)
        uids = sorted(self.groups)
        drawn = [OPEN if self._reached(uid) else CLOSED for uid in uids]
        random.Random(derived_seed(self.seed, self.steps)).shuffle(drawn)
        self.histories = dict(zip(uids, drawn, strict=True))

    def _reached(self, uid: str) -> bool:
        """Eq. 14's Acc(x) >= Acc_h(x); true without a history."""
        history = self.history[uid]
        return math.isnan(history) or self.groups[uid] >= history - ROUNDING

    def read(self, uid: str) -> Mapping[str, float]:
        return {**super().read(uid), "shuffled_history": self.histories[uid]}

    def after_step(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.steps = state_dict["steps"]
