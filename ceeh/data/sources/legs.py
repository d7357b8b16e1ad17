"""Leg counting: word problems in words that a small language model knows, with demonstrations.

"How many legs do 3 dogs and 2 spiders have in total?" needs a fact and a product per kind of animal, and the
sum. The level is the number of kinds. A demonstration is in one of four styles, of which the longer ones
are the easier to get right: `direct`, `short`, `medium` and `long`.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ceeh.data.sources.splits import (
    HELD_OUT_ONE_IN,
    Split,
    check_styles,
    parse_levels,
    parse_split,
    split_of,
)
from ceeh.errors import ConfigError
from ceeh.types import Demonstration, Question

LEVELS = range(1, 5)
LEGS = (
    dict.fromkeys(("snake", "worm", "jellyfish", "leech", "slug"), 0)
    | dict.fromkeys(("chicken", "duck", "human", "ostrich", "penguin", "eagle"), 2)
    | dict.fromkeys(("dog", "cat", "cow", "horse", "lion", "elephant", "tiger", "goat", "frog"), 4)
    | dict.fromkeys(("ant", "bee", "beetle", "wasp", "cricket", "butterfly", "ladybug"), 6)
    | dict.fromkeys(("spider", "scorpion", "tick", "mite"), 8)
    | dict.fromkeys(("crab", "lobster", "prawn", "crayfish"), 10)
    | {"woodlouse": 14}
)
IRREGULAR = {"jellyfish": "jellyfish", "crayfish": "crayfish", "woodlouse": "woodlice"} | {
    "butterfly": "butterflies",
    "leech": "leeches",
    "ostrich": "ostriches",
}
Herd = Mapping[str, int]
"""Kind of animal -> how many of it, in the order of the question."""


def counted(animal: str, count: int) -> str:
    return f"{count} {animal if count == 1 else IRREGULAR.get(animal, animal + 's')}"


def listed(herd: Herd) -> str:
    *first, last = [counted(*each) for each in herd.items()]
    return f"{', '.join(first)} and {last}" if first else last


def question_text(herd: Herd) -> str:
    return f"How many legs do {listed(herd)} have in total?"


def total(herd: Herd) -> int:
    return sum(LEGS[animal] * count for animal, count in herd.items())


def direct(herd: Herd) -> str:
    return f"\\boxed{{{total(herd)}}}"


def short(herd: Herd) -> str:
    products = [f"{n}*{LEGS[animal]} = {n * LEGS[animal]}" for animal, n in herd.items()]
    sums = [
        f"{before} + {legs} = {before + legs}." for _, legs, before in running(herd) if before >= 0
    ]
    return " ".join([", ".join(products) + ".", *sums, direct(herd)])


def medium(herd: Herd) -> str:
    lines = []
    for animal, legs, before in running(herd):
        article = "An" if animal[0] in "aeo" else "A"
        lines.append(
            f"{article} {animal} has {LEGS[animal]} legs, so {counted(animal, herd[animal])}: "
            f"{herd[animal]}*{LEGS[animal]} = {legs} legs."
        )
        if before >= 0:
            lines.append(f"So far {before} + {legs} = {before + legs}.")
    return " ".join([*lines, f"The answer is {direct(herd)}."])


def long(herd: Herd) -> str:
    lines = [f"We want the total number of legs of {listed(herd)}. Let us take one kind at a time."]
    for number, (animal, legs, before) in enumerate(running(herd), 1):
        lines.append(
            f"{number}. The kind is {animal}. How many legs has it? It has {LEGS[animal]} legs. How many "
            f"are there? There are {herd[animal]}. The product is {herd[animal]}*{LEGS[animal]} = {legs}."
        )
        if before >= 0:
            lines.append(f"We had {before} legs before. {before} + {legs} = {before + legs}.")
    return "\n".join([*lines, f"That was the last kind, so the answer is {direct(herd)}."])


def running(herd: Herd) -> Iterator[tuple[str, int, int]]:
    """Animal, its legs, and the sum before it; -1 for the first, which needs no addition."""
    before = -1
    for animal, count in herd.items():
        legs = LEGS[animal] * count
        yield animal, legs, before
        before = max(before, 0) + legs


STYLES: dict[str, Callable[[Herd], str]] = {
    "direct": direct,
    "short": short,
    "medium": medium,
    "long": long,
}


class LegCounting:
    """`questions` distinct leg-counting problems, cycling through `levels`, drawn from `seed`.

    A hash of a question's text puts one in five into the held-out split, whatever the seed: the splits of
    any two runs are disjoint. `levels` is a range "1-4", one level, or a list.
    There are 1 to `max_count` animals of each kind. `styles` maps each style of a demonstration to its
    relative frequency; without it the questions have no response.
    """

    def __init__(
        self,
        questions: int,
        seed: int = 0,
        split: str = "train",
        levels: str | int | Sequence[int] = "1-4",
        max_count: int = 5,
        styles: Mapping[str, float] | None = None,
    ) -> None:
        if questions < 1 or max_count < 1:
            raise ConfigError(
                f"questions and max_count must be at least 1, got {questions} and {max_count}"
            )
        if styles is not None:
            check_styles(styles, STYLES)
        self.num_questions, self.seed, self.split = questions, seed, parse_split(split)
        self.levels, self.max_count, self.styles = parse_levels(levels, LEVELS), max_count, styles
        for index, level in enumerate(self.levels):
            wanted = len(range(index, questions, len(self.levels)))
            if wanted > (available := num_herds(level, max_count, self.split)):
                raise ConfigError(
                    f"questions: {questions} asks for {wanted} of level {level}, which has about {available}"
                    f" in the split '{split}'; lower questions, or raise max_count or levels"
                )

    def __len__(self) -> int:
        return self.num_questions

    def __iter__(self) -> Iterator[Question]:
        rng = random.Random(f"legs/{self.split}/{self.seed}")
        seen: set[str] = set()
        while len(seen) < self.num_questions:
            level = self.levels[len(seen) % len(self.levels)]
            herd = {a: rng.randint(1, self.max_count) for a in rng.sample(list(LEGS), level)}
            text = question_text(herd)
            if text in seen or split_of(text) != self.split:
                continue
            seen.add(text)
            fields: dict[str, Any] = {
                "uid": "legs-" + "-".join(f"{count}{animal}" for animal, count in herd.items()),
                "text": text,
                "answer": str(total(herd)),
                "metadata": {"level": level},
            }
            if self.styles is None:
                yield Question(**fields)
            else:
                style = rng.choices(list(self.styles), list(self.styles.values()))[0]
                yield Demonstration(**fields, response=STYLES[style](herd))


def num_herds(level: int, max_count: int, split: Split) -> int:
    """Questions of a level in a split; from level 2 on a lower estimate, as the last are slow to draw."""
    if level == 1:
        single = ({animal: count} for animal in LEGS for count in range(1, max_count + 1))
        return sum(split_of(question_text(herd)) == split for herd in single)
    fraction = 1 / HELD_OUT_ONE_IN if split == "held_out" else 1 - 1 / HELD_OUT_ONE_IN
    return int(0.8 * fraction * math.perm(len(LEGS), level) * max_count**level)
