"""The questions of the starter task: distinct chains by level, in disjoint splits."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ceeh.data.sources.splits import (
    HELD_OUT_ONE_IN,
    check_styles,
    parse_levels,
    parse_split,
    split_of,
)
from ceeh.errors import ConfigError
from ceeh.starter.task import (
    LEVELS,
    MODULUS,
    MULTIPLICATIONS,
    ONE_DIGIT,
    PRACTICED,
    STYLES,
    TWO_DIGITS,
    demonstration,
    sample_chain,
    sample_style,
)
from ceeh.types import Demonstration, Question


class StarterTask:
    """`questions` distinct chains of the starter task, cycling through `levels`, drawn from `seed`.

    A hash of a chain's text puts one chain in five into the held-out split, whatever the seed: the
    splits of any two runs are disjoint. `levels` is a range "1-6", one level, or a list.

    With `styles`, style -> relative frequency, they are demonstrations: multipliers are drawn
    from PRACTICED, and a chain may come again with another response.
    """

    def __init__(
        self,
        questions: int,
        seed: int = 0,
        split: str = "train",
        levels: str | int | Sequence[int] = "1-6",
        styles: Mapping[str, float] | None = None,
    ) -> None:
        if questions < 1:
            raise ConfigError(f"questions must be at least 1, got {questions}")
        self.num_questions, self.seed, self.split = questions, seed, parse_split(split)
        self.levels, self.styles = parse_levels(levels, LEVELS), styles
        if styles is None:
            self._check_available()
        else:
            check_styles(styles, STYLES)

    def _check_available(self) -> None:
        """Raises ConfigError for more questions of a level than can be drawn."""
        held_out = 1 / HELD_OUT_ONE_IN
        fraction = held_out if self.split == "held_out" else 1 - held_out
        for index, level in enumerate(self.levels):
            wanted = len(range(index, self.num_questions, len(self.levels)))
            # Finding the last tenth by rejection would take longer than all the rest.
            available = int(0.9 * num_chains(level) * fraction)
            if wanted > available:
                raise ConfigError(
                    f"questions: {self.num_questions} asks for {wanted} of level {level}, which has about"
                    f" {available} in the split '{self.split}'; lower questions or add levels"
                )

    def __len__(self) -> int:
        return self.num_questions

    def __iter__(self) -> Iterator[Question]:
        rng = random.Random(f"starter/{self.split}/{self.seed}")
        multipliers = TWO_DIGITS if self.styles is None else PRACTICED
        seen: set[str] = set()
        count = 0
        while count < self.num_questions:
            level = self.levels[count % len(self.levels)]
            chain = sample_chain(rng, level, multipliers)
            if split_of(chain.text) != self.split or (self.styles is None and chain.text in seen):
                continue
            fields: dict[str, Any] = {
                "text": f"{chain.text}?",
                "answer": f"{chain.answer:02d}",
                "metadata": {"level": level},
            }
            uid = f"starter-{chain.text}"
            if self.styles is None:
                seen.add(chain.text)
                yield Question(uid=uid, **fields)
            else:
                style = sample_style(rng, level, self.styles)
                response = demonstration(chain, style, rng)
                yield Demonstration(uid=f"{uid}-{count}", response=response, **fields)
            count += 1


def num_chains(level: int) -> int:
    """Distinct chains of a level: starts, places of the multiplications, operands, 18 per other operation."""
    by_one, by_two = MULTIPLICATIONS[level]
    places = math.comb(level, by_one) * math.comb(level - by_one, by_two)
    operands = len(ONE_DIGIT) ** by_one * len(TWO_DIGITS) ** by_two
    return MODULUS * places * operands * 18 ** (level - by_one - by_two)
