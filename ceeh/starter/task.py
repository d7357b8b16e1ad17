"""The starter task: chains of small operations, read from left to right, kept to the last two digits.

`47+8*3*16-5?` asks for (((47 + 8) * 3) * 16 - 5) mod 100 = 35. A question of level n has n operations.
Adding or subtracting a digit is easy for a small model, multiplying by a digit less so, multiplying by
a number of two digits is at the edge of what it can do; `MULTIPLICATIONS` says which level has what.
A trace may work in five styles, and its first word says which:

    so 35                                         at once
    leap 47+8*3=65;65*16-5=35;so 35               two operations a step: shorter, and less reliable
    step 47+8=55;55*3=65;65*16=40;40-5=35;so 35   one operation a step
    test leap ...;check step ...;ok               leaps, many of them checked step by step and repaired
    read 47+8*3*16-5?step ...;again ...;redo ...  steps, drowned in restating, idle checks, starting over
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Style = Literal["so", "leap", "step", "test", "read"]
STYLES: tuple[Style, ...] = get_args(Style)
LEVELS = range(1, 9)
MODULUS = 100
MULTIPLICATIONS = {
    1: (0, 0),
    2: (0, 0),
    3: (0, 0),
    4: (1, 0),
    5: (2, 0),
    6: (3, 0),
    7: (2, 1),
    8: (2, 2),
}
"""Of a level's operations, how many multiply by one digit and by two; the rest add or subtract."""
ONE_DIGIT = range(2, 10)
TWO_DIGITS = tuple(ten + unit for ten in range(20, 100, 10) for unit in (0, 1))
"""Multipliers of the questions: by 30 is easy, by 31 (the tens digit sums two products) is not."""
WORDS = ("so", "leap", "step", "test", "read", "check", "ok", "fix", "again", "redo")
SYMBOLS = (*"0123456789", "+", "-", "*", "=", ";", "?")

Operation = tuple[Literal["+", "-", "*"], int]


@dataclass(frozen=True, slots=True)
class Chain:
    """One question: a start in [0, 99] and the operations applied to it in order."""

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
    """A chain of `level` operations, of which MULTIPLICATIONS says how many multiply."""
    by_one, by_two = MULTIPLICATIONS[level]
    operations: list[Operation] = []
    for multipliers, count in ((ONE_DIGIT, by_one), (two_digits, by_two)):
        for _ in range(count):
            operations.append(("*", rng.choice(multipliers)))
    for _ in range(level - by_one - by_two):
        operations.append(("+" if rng.choice("+-") == "+" else "-", rng.randint(1, 9)))
    rng.shuffle(operations)
    return Chain(rng.randrange(MODULUS), tuple(operations))


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a trace; `learn` is False where the text is a mistake that must not be imitated."""

    text: str
    learn: bool = True


def trace(chain: Chain, style: Style, rng: random.Random) -> list[Piece]:
    """A worked response to `chain` in `style`, ending in `so` and the right answer."""
    body: list[Piece] = []
    if style == "leap":
        body = [Piece("leap "), *_walk(chain, 2)]
    elif style == "step":
        body = [Piece("step "), *_walk(chain, 1)]
    elif style == "test":
        body = [Piece("test "), *_checked_leaps(chain, rng)]
    elif style == "read":
        body = [Piece("read "), *_wasteful(chain, rng)]
    return [*body, Piece(f"so {chain.answer:02d}")]


def _walk(chain: Chain, stride: int) -> Iterator[Piece]:
    value = chain.start
    for index in range(0, chain.level, stride):
        chunk = chain.operations[index : index + stride]
        result = apply(value, chunk)
        yield Piece(f"{expression(value, chunk)}={result:02d};")
        value = result


def _checked_leaps(chain: Chain, rng: random.Random) -> Iterator[Piece]:
    """Leaps; three in four are checked, and half of the checked ones are wrong and get repaired."""
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
