"""The starter task: chains of small operations, evaluated from left to right modulo 100.

`47+8*3*16-5?` asks for (((47 + 8) * 3) * 16 - 5) mod 100 = 35. A question of level n has n operations.
Adding or subtracting a digit is easy for a small model, multiplying by a digit is harder, and multiplying
by a two-digit number is at the edge of what it can do; `MULTIPLICATIONS` defines the levels.
A trace is in one of five styles, named by its first word:

    so 35                                         the answer alone
    leap 47+8*3=65;65*16-5=35;so 35               two operations per step: shorter, less reliable
    step 47+8=55;55*3=65;65*16=40;40-5=35;so 35   one operation per step
    test leap ...;check step ...;ok               leaps, many of them checked step by step and repaired
    read 47+8*3*16-5?step ...;again ...;redo ...  steps, with restating, useless checks and restarts
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ceeh.types import Piece

Style = Literal["so", "leap", "step", "test", "read"]
STYLES: tuple[Style, ...] = get_args(Style)
LEVELS = range(1, 9)
MODULUS = 100
MULTIPLICATIONS = dict.fromkeys((1, 2, 3), (0, 0)) | {
    4: (1, 0),
    5: (2, 0),
    6: (3, 0),
    7: (2, 1),
    8: (2, 2),
}
"""Level -> how many operations multiply by one digit and by two digits; the rest add or subtract."""
ONE_DIGIT = range(2, 10)
TWO_DIGITS = tuple(ten + unit for ten in range(20, 100, 10) for unit in (0, 1))
"""Multipliers in the questions. 30 is easy; 31 is not, because the tens digit sums two products."""
WORDS = ("so", "leap", "step", "test", "read", "check", "ok", "fix", "again", "redo")
SYMBOLS = (*"0123456789", "+", "-", "*", "=", ";", "?")

Operation = tuple[Literal["+", "-", "*"], int]


@dataclass(frozen=True, slots=True)
class Chain:
    """One question: a start in [0, 99] and the operations, applied in order."""

    start: int
    operations: tuple[Operation, ...]

    @property
    def level(self) -> int:
        return len(self.operations)

    @property
    def answer(self) -> int:
        return apply(self.start, self.operations)

    @property
    def text(self) -> str:
        return expression(self.start, self.operations)


def apply(value: int, operations: Sequence[Operation]) -> int:
    """`value` after `operations`, each modulo 100."""
    for sign, operand in operations:
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[sign] % MODULUS
    return value


def expression(value: int, operations: Sequence[Operation]) -> str:
    return f"{value:02d}" + "".join(f"{sign}{operand}" for sign, operand in operations)


def sample_chain(rng: random.Random, level: int, two_digits: Sequence[int] = TWO_DIGITS) -> Chain:
    """A random chain of `level` operations, with the multiplications of MULTIPLICATIONS[level]."""
    by_one, by_two = MULTIPLICATIONS[level]
    operations: list[Operation] = []
    for multipliers, count in ((ONE_DIGIT, by_one), (two_digits, by_two)):
        for _ in range(count):
            operations.append(("*", rng.choice(multipliers)))
    for _ in range(level - by_one - by_two):
        operations.append(("+" if rng.choice("+-") == "+" else "-", rng.randint(1, 9)))
    rng.shuffle(operations)
    return Chain(rng.randrange(MODULUS), tuple(operations))


def trace(chain: Chain, style: Style, rng: random.Random) -> list[Piece]:
    """A worked response to `chain` in `style`, ending in `so` and the correct answer."""
    end = Piece(f"so {chain.answer:02d}")
    if style == "so":
        return [end]
    body = {
        "leap": lambda: _walk(chain, 2),
        "step": lambda: _walk(chain, 1),
        "test": lambda: _checked_leaps(chain, rng),
        "read": lambda: _wasteful(chain, rng),
    }[style]
    return [Piece(f"{style} "), *body(), end]


def _walk(chain: Chain, stride: int) -> Iterator[Piece]:
    value = chain.start
    for index in range(0, chain.level, stride):
        chunk = chain.operations[index : index + stride]
        result = apply(value, chunk)
        yield Piece(f"{expression(value, chunk)}={result:02d};")
        value = result


def _checked_leaps(chain: Chain, rng: random.Random) -> Iterator[Piece]:
    """Leaps; three in four are checked, and half of those are wrong and are repaired."""
    value = chain.start
    for index in range(0, chain.level, 2):
        chunk = chain.operations[index : index + 2]
        result = apply(value, chunk)
        yield Piece(f"{expression(value, chunk)}=")
        if rng.random() < 0.75:
            wrong = rng.random() < 0.5
            guess = _mistaken(result, rng) if wrong else result
            yield Piece(f"{guess:02d}", learn=not wrong)
            yield Piece(";check ")
            yield from _walk(Chain(value, chunk), 1)
            yield Piece(f"fix {result:02d};" if wrong else "ok ")
        else:
            yield Piece(f"{result:02d};")
        value = result


def _mistaken(result: int, rng: random.Random) -> int:
    """`result` with one or both of its digits changed."""
    digits = list(f"{result:02d}")
    for place in rng.sample(range(2), rng.choice((1, 1, 2))):
        digits[place] = rng.choice([d for d in "0123456789" if d != digits[place]])
    return int("".join(digits))


def _wasteful(chain: Chain, rng: random.Random) -> Iterator[Piece]:
    if rng.random() < 0.7:
        yield Piece(f"{chain.text}?")
    for attempt in range(2):
        for step in _walk(chain, 1):
            yield step
            if rng.random() < 0.35:
                yield Piece(f"again {step.text}")
        if attempt == 0 and rng.random() < 0.5:
            return
        if attempt == 0:
            yield Piece("redo ")
