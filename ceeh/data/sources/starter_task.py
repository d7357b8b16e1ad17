"""The questions of the starter task: distinct chains by level, in disjoint splits."""

import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from ceeh.errors import ConfigError
from ceeh.runtime.rng import stable_hash
from ceeh.starter.task import (
    LEVELS,
    MODULUS,
    MULTIPLICATIONS,
    ONE_DIGIT,
    TWO_DIGITS,
    Chain,
    sample_chain,
)
from ceeh.types import Question

Split = Literal["train", "held_out"]
HELD_OUT_ONE_IN = 5


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
        if split not in get_args(Split):
            raise ConfigError(f"split must be one of {', '.join(get_args(Split))}, got '{split}'")
        self.num_questions, self.seed, self.split = questions, seed, split
        self.levels = _levels(levels)
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
            if chain.text in seen or starter_split(chain) != self.split:
                continue
            seen.add(chain.text)
            yield Question(
                uid=f"starter-{chain.text}",
                text=f"{chain.text}?",
                answer=f"{chain.answer:02d}",
                metadata={"level": level},
            )


def starter_split(chain: Chain) -> Split:
    """The split of a chain: a hash of its text alone."""
    number = int.from_bytes(stable_hash(chain.text), "big")
    return "held_out" if number % HELD_OUT_ONE_IN == 0 else "train"


def num_chains(level: int) -> int:
    """Distinct chains of a level: starts, places of the multiplications, operands, 18 per other operation."""
    by_one, by_two = MULTIPLICATIONS[level]
    places = math.comb(level, by_one) * math.comb(level - by_one, by_two)
    operands = len(ONE_DIGIT) ** by_one * len(TWO_DIGITS) ** by_two
    return MODULUS * places * operands * 18 ** (level - by_one - by_two)


def _levels(levels: str | int | Sequence[int]) -> list[int]:
    wanted: list[Any]
    if isinstance(levels, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", levels, re.ASCII)
        wanted = list(range(int(match[1]), int(match[2] or match[1]) + 1)) if match else []
    else:
        wanted = [levels] if isinstance(levels, int) else list(levels)
    if not wanted or len(set(wanted)) < len(wanted) or any(level not in LEVELS for level in wanted):
        raise ConfigError(
            f"levels must be distinct levels from {LEVELS[0]} to {LEVELS[-1]}, such as '1-8' or [1, 2],"
            f" got {levels!r}"
        )
    return wanted
