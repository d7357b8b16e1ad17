"""How many completions each prompt of a step gets: as many for all, or by a knapsack over the history."""

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ceeh.config.rollouts import Rollouts
from ceeh.runtime.table import QuestionTable


def contrast(accuracy: float, completions: int) -> float:
    """The chance that `completions` responses are neither all correct nor all incorrect."""
    return 1 - accuracy**completions - (1 - accuracy) ** completions


def knapsack(accuracies: Sequence[float], total: int, *, minimum: int, maximum: int) -> list[int]:
    """Completions N of each prompt, `total` in all, that maximize the sum of their values.

        value(N) = (1 - p^N - (1 - p)^N) p (1 - p)^2,   minimum <= N <= maximum

    p is the prompt's accuracy: the chance of a gradient times the gain that it promises. Knapsack RL,
    https://arxiv.org/abs/2509.25849. Each further completion adds less than the one before, so giving them
    out one by one, each where it adds most, is optimal. Where none adds anything, the prompt with the fewest
    gets it.
    """
    counts = [minimum] * len(accuracies)

    def entry(place: int) -> tuple[float, int, int]:
        p, n = accuracies[place], counts[place]
        gain = (contrast(p, n + 1) - contrast(p, n)) * p * (1 - p) ** 2
        return -gain, n, place

    queue = [entry(place) for place in range(len(accuracies)) if minimum < maximum]
    heapq.heapify(queue)
    for _ in range(total - minimum * len(accuracies)):
        _, _, place = heapq.heappop(queue)
        counts[place] += 1
        if counts[place] < maximum:
            heapq.heappush(queue, entry(place))
    return counts


class Knapsack:
    """The completions of a rank's prompts by the accuracy of each one's last visit.

    A question that was not seen gets `completions_per_prompt`, the others share what is left of as many for
    each, so a rank's number of rows is the same in every step. Each rank shares out its own prompts.
    """

    def __init__(self, settings: Rollouts) -> None:
        self.size = settings.completions_per_prompt
        self.minimum = settings.allocation.minimum
        self.maximum = settings.allocation.maximum
        self.accuracies = QuestionTable()

    def counts(self, uids: Sequence[str]) -> tuple[int, ...]:
        """Completions of each of these prompts."""
        known = [uid for uid in uids if not math.isnan(self.accuracies[uid])]
        shared = knapsack(
            [self.accuracies[uid] for uid in known],
            self.size * len(known),
            minimum=self.minimum,
            maximum=self.maximum,
        )
        of_known = dict(zip(known, shared, strict=True))
        return tuple(of_known.get(uid, self.size) for uid in uids)

    def observe(self, accuracies: Iterable[tuple[str, float]]) -> None:
        """Takes in (uid, accuracy) of a step's groups; every rank those of all ranks, in one order."""
        for uid, accuracy in accuracies:
            self.accuracies[uid] = accuracy

    def state_dict(self) -> dict[str, Any]:
        return self.accuracies.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accuracies.load_state_dict(state)
