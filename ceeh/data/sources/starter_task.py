"""The questions of the starter task: distinct chains by level, in disjoint splits."""

import math
import random
from collections.abc import Iterator, Sequence

from ceeh.data.sources.splits import HELD_OUT_ONE_IN, parse_levels, parse_split, split_of
from ceeh.errors import ConfigError
from ceeh.starter.task import (
    LEVELS,
    MODULUS,
    MULTIPLICATIONS,
    ONE_DIGIT,
    TWO_DIGITS,
    sample_chain,
)
from ceeh.types import Question


class StarterTask:
    """`questions` distinct chains of the starter task, cycling through `levels`, drawn from `seed`.

    A hash of a chain's text puts one chain in five into the held-out split, whatever the seed: the
    splits of any two runs are disjoint. `levels` is a range "1-8", one level, or a list.
    """

    def __init__(
        self,
        questions: int,
        seed: int = 0,
        split: str = "train",
        levels: str | int | Sequence[int] = "1-8",
    ) -> None:
        if questions < 1:
            raise ConfigError(f"questions must be at least 1, got {questions}")
        self.num_questions, self.seed, self.split = questions, seed, parse_split(split)
        self.levels = parse_levels(levels, LEVELS)
        held_out = 1 / HELD_OUT_ONE_IN
        fraction = held_out if split == "held_out" else 1 - held_out
        for index, level in enumerate(self.levels):
            wanted = len(range(index, questions, len(self.levels)))
            # Finding the last tenth by rejection would take longer than all the rest.
            available = int(0.9 * num_chains(level) * fraction)
            if wanted > available:
                raise ConfigError(
                    f"questions: {questions} asks for {wanted} of level {level}, which has about"
                    f" {available} in the split '{split}'; lower questions or add levels"
                )

    def __len__(self) -> int:
        return self.num_questions

    def __iter__(self) -> Iterator[Question]:
        rng = random.Random(f"starter/{self.split}/{self.seed}")
        seen: set[str] = set()
        while len(seen) < self.num_questions:
            level = self.levels[len(seen) % len(self.levels)]
            chain = sample_chain(rng, level)
            if chain.text in seen or split_of(chain.text) != self.split:
                continue
            seen.add(chain.text)
            yield Question(
                uid=f"starter-{chain.text}",
                text=f"{chain.text}?",
                answer=f"{chain.answer:02d}",
                metadata={"level": level},
            )


def num_chains(level: int) -> int:
    """Distinct chains of a level: starts, places of the multiplications, operands, 18 per other operation."""
    by_one, by_two = MULTIPLICATIONS[level]
    places = math.comb(level, by_one) * math.comb(level - by_one, by_two)
    operands = len(ONE_DIGIT) ** by_one * len(TWO_DIGITS) ** by_two
    return MODULUS * places * operands * 18 ** (level - by_one - by_two)
