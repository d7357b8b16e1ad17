"""The questions of the starter task: distinct chains by level, in splits that never overlap."""

import math
import random
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
    """`questions` distinct chains of the starter task, its levels in turn, drawn from `seed`.

    A chain belongs to the held-out split by a hash of its text (one in five), whatever the seed:
    the splits of any two runs are disjoint. `levels` is a range "1-8", one level, or a list.
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
        for index, level in enumerate(self.levels):
            wanted = len(range(index, questions, len(self.levels)))
            share = (
                HELD_OUT_ONE_IN if split == "held_out" else HELD_OUT_ONE_IN / (HELD_OUT_ONE_IN - 1)
            )
            # Drawing the last tenth by chance would take longer than all the rest.
            available = int(0.9 * num_chains(level) / share)
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
    """The split a chain belongs to, by a hash of its text alone."""
    digest = stable_hash(chain.text)
    return "held_out" if int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0 else "train"


def num_chains(level: int) -> int:
    """Distinct chains of a level: starts, places of the multiplications, operands, the rest +-1-9."""
    by_one, by_two = MULTIPLICATIONS[level]
    places = math.comb(level, by_one) * math.comb(level - by_one, by_two)
    operands = len(ONE_DIGIT) ** by_one * len(TWO_DIGITS) ** by_two
    return MODULUS * places * operands * 18 ** (level - by_one - by_two)


def _levels(levels: str | int | Sequence[int]) -> list[int]:
    wanted: list[Any]
    if isinstance(levels, str):
        first, _, last = levels.partition("-")
        ends = [int(end) for end in (first, last or first) if end.strip().isdecimal()]
        wanted = list(range(ends[0], ends[1] + 1)) if len(ends) == 2 else []
    else:
        wanted = [levels] if isinstance(levels, int) else list(levels)
    if not wanted or len(set(wanted)) < len(wanted) or any(level not in LEVELS for level in wanted):
        raise ConfigError(
            f"levels must be distinct levels from {LEVELS[0]} to {LEVELS[-1]}, as '1-8' or [1, 2],"
            f" got {levels!r}"
        )
    return wanted
