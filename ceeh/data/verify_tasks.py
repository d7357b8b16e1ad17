"""The tasks of one call of the pool: which comes next, what was said of each, what went wrong first."""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ceeh.types import Outcome, Verdict

RIGHT = Verdict(score=1.0, outcome=Outcome.OK)
WRONG = Verdict(score=0.0, outcome=Outcome.OK)
UNREADABLE = Verdict(score=0.0, outcome=Outcome.UNREADABLE)


class Tasks:
    """A task is known by its index. Questions take turns; those that had a slow answer come last.

    `faults` has the first task that failed in each way, first by its index, and what was said of it.
    """

    def __init__(
        self, tasks: Sequence[tuple[Any, ...]], question: Callable[[tuple[Any, ...]], Hashable]
    ) -> None:
        self.tasks = tasks
        self.questions = [question(task) for task in tasks]
        self.verdicts: dict[int, Verdict] = {}
        self.faults: dict[Outcome, tuple[int, str]] = {}
        self.slow: set[Hashable] = set()
        seen: Counter[Hashable] = Counter()
        turns = []
        for key in self.questions:
            turns.append(seen[key])
            seen[key] += 1
        self.waiting = deque(sorted(range(len(tasks)), key=turns.__getitem__))
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

    def settle(self, task: int, outcome: Outcome, said: Any) -> None:
        """`said` is the score of one that is OK, and else words."""
        if outcome is Outcome.OK:
            score = float(said)
            fixed = RIGHT if score == 1 else WRONG if score == 0 else None
            self.verdicts[task] = fixed or Verdict(score=score, outcome=outcome)
            return
        self.verdicts[task] = Verdict(score=0.0, outcome=outcome)
        if task < self.faults.get(outcome, (len(self.tasks), ""))[0]:
            self.faults[outcome] = (task, str(said))

    def give_up(self, words: str) -> None:
        while self.num_waiting:
            self.settle(self.next(), Outcome.TIMEOUT, words)
