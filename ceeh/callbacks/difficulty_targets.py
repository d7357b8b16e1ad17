"""DifficultyTargets: a target length per difficulty, the shortest that one correct answer fits into."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from fractions import Fraction

from ceeh.callbacks.signal import SignalCallback
from ceeh.types import GroupOutcome

BANDS = ("hard", "medium", "easy")


def band(accuracy: float) -> int:
    """0 (hard) below 1/3, 1 (medium) below 2/3, else 2 (easy), as in LASER-D's released reward."""
    return (accuracy >= 1 / 3) + (accuracy >= 2 / 3)


def expected_correct_target(
    lengths: Sequence[int], at_least_correct: int, grid: Sequence[int]
) -> int:
    """The smallest l of `grid` with P(l) n >= 1, else the last: P(l) is the fraction of `lengths` <= l.

    n (`at_least_correct`) is the least number of correct responses to a question of the band: of n responses
    one is then expected to fit. LASER-D's expected correct responses, section 3 and the released code,
    https://arxiv.org/abs/2505.15612. `lengths` and `grid` ascend.
    """
    for target in grid:
        fitting = bisect_right(lengths, target)
        if lengths and Fraction(fitting * at_least_correct, len(lengths)) >= 1:
            return target
    return grid[-1]


class DifficultyTargets(SignalCallback):
    """`target_length` in tokens, by the difficulty band of the question's own group.

    A band's target is `expected_correct_target` over all responses of the last `window` groups, with
    n = max(1, floor(2 K / 3)), max(1, floor(K / 3)) and 1 for easy, medium and hard, K the group's size.
    A band without responses has the target `longest`.

    LASER-D samples 500 training questions every 20 steps to set the targets; here the last `window` trained
    groups set them before every step. Raises ValueError for arguments out of range.
    """

    writes = ("target_length",)
    state = ("recent",)

    def __init__(self, shortest: int, longest: int, interval: int, window: int = 500) -> None:
        if not (1 <= shortest <= longest and interval >= 1 and window >= 1):
            raise ValueError(
                "1 <= shortest <= longest tokens, interval >= 1 and window >= 1 are needed, got "
                f"shortest {shortest}, longest {longest}, interval {interval}, window {window}"
            )
        self.grid = [*range(shortest, longest, interval), longest]
        self.window = window
        self.recent: list[tuple[float, tuple[int, ...]]] = []
        self.groups: dict[str, GroupOutcome] = {}
        self.lengths: list[list[int]] = [[] for _ in BANDS]

    def before_step(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.groups = {outcome.uid: outcome for outcome in outcomes}
        self.lengths = [[] for _ in BANDS]
        for accuracy, lengths in self.recent:
            self.lengths[band(accuracy)] += lengths
        for lengths in self.lengths:
            lengths.sort()

    def read(self, uid: str) -> Mapping[str, float]:
        outcome = self.groups[uid]
        return {"target_length": self.target(band(outcome.accuracy), len(outcome.correct))}

    def target(self, chosen: int, samples: int) -> float:
        """The target of a band for a group of `samples` responses."""
        return float(
            expected_correct_target(self.lengths[chosen], max(1, chosen * samples // 3), self.grid)
        )

    def observe(self, outcome: GroupOutcome) -> None:
        self.recent.append((outcome.accuracy, outcome.lengths))
        del self.recent[: -self.window]

    def metrics(self) -> Mapping[str, float]:
        samples = max(len(outcome.correct) for outcome in self.groups.values())
        return {
            f"target_length_{name}": self.target(index, samples) for index, name in enumerate(BANDS)
        }
