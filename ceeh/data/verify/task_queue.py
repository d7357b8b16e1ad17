"""The tasks of one call of a worker pool: their order, and what became of them."""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ceeh.types import GradingOutcome, Verdict

Task = tuple[Any, ...]


class TaskQueue:
    """The tasks of one call, by index. Questions alternate; those with a slow answer come last.

    `faults` maps each kind of failure to the first task that failed so, by index, and a description.
    """

    def __init__(self, tasks: Sequence[Task], question: Callable[[Task], Hashable]) -> None:
        self.tasks = tasks
        self.questions = [question(task) for task in tasks]
        self.verdicts: dict[int, Verdict] = {}
        self.faults: dict[GradingOutcome, tuple[int, str]] = {}
        self.slow: set[Hashable] = set()
        seen: Counter[Hashable] = Counter()
        rounds = []
        for key in self.questions:
            rounds.append(seen[key])
            seen[key] += 1
        self.waiting = deque(sorted(range(len(tasks)), key=rounds.__getitem__))
        self.postponed: deque[int] = deque()

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + len(self.postponed)

    @property
    def num_open(self) -> int:
        return len(self.tasks) - len(self.verdicts)

    def next(self) -> int:
        while self.waiting and self.questions[self.waiting[0]] in self.slow:
            self.postponed.append(self.waiting.popleft())
        return (self.waiting or self.postponed).popleft()

    def put_back(self, tasks: Sequence[int]) -> None:
        self.waiting.extendleft(reversed(tasks))

    def settle(self, task: int, outcome: GradingOutcome, result: Any) -> None:
        """`result` is the score if `outcome` is OK, otherwise a description."""
        score = float(result) if outcome is GradingOutcome.OK else 0.0
        self.verdicts[task] = Verdict(score=score, outcome=outcome)
        first, _ = self.faults.get(outcome, (len(self.tasks), ""))
        if outcome is not GradingOutcome.OK and task < first:
            self.faults[outcome] = (task, str(result))

    def time_out(self, words: str) -> None:
        """Settles every open task."""
        for task in range(len(self.tasks)):
            if task not in self.verdicts:
                self.settle(task, GradingOutcome.TIMEOUT, words)
