"""The starter task: chains of small operations, evaluated from left to right modulo 100.

`47+8*3*31-5?` asks for (((47 + 8) * 3) * 31 - 5) mod 100 = 10. A question of level n has n operations.
Adding or subtracting a digit is easy for a small model, multiplying by a digit is harder, and multiplying
by a two-digit number in one step is beyond it; `MULTIPLICATIONS` defines the levels.
A demonstration is in one of five styles, named by its first word:

    so 10                                         the answer alone
    leap 47+8*3=65;65*31-5=10;so 10               two operations per step
    step 47+8=55;55*3=65;65*31=15;15-5=10;so 10   one operation per step
    long ...;65*30=50;65*1=65;50+65=15;...        one per step, multiplications by partial products
    read 47+8*3*31-5?...;again ...;redo ...       as `long`, with restating, repetitions and restarts
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Style = Literal["so", "leap", "step", "long", "read"]
STYLES: tuple[Style, ...] = get_args(Style)
LEVELS = range(1, 7)
MODULUS = 100
MULTIPLICATIONS = {1: (0, 0), 2: (1, 0), 3: (0, 0), 4: (2, 0), 5: (2, 1), 6: (2, 2)}
"""Level -> how many operations multiply by one digit and by two digits; the rest add or subtract."""
ONE_DIGIT = range(2, 10)
TWO_DIGITS = tuple(ten + unit for ten in range(20, 100, 10) for unit in range(4))
"""Multipliers in the questions. 30 is easy; 31 is not, because the tens digit sums two products."""
PRACTICED = tuple(range(11, 100))
"""Multipliers in demonstrations. With those of the questions alone the model would memorize the products,
and the hardest levels would be as easy as the others."""
STYLE_BOOST: Mapping[tuple[str, int], float] = {
    ("so", 1): 16,
    ("so", 2): 3,
    ("so", 3): 2,
    ("leap", 3): 5,
    **{("leap", level): 0.5 for level in (5, 6)},
    **{("step", level): 0.25 for level in (5, 6)},
    **{("long", level): 2 for level in (5, 6)},
}
"""How many times as often as elsewhere a demonstration of that level has that style. The last three let the
first word depend on the difficulty a little, as the length of a language model's reasoning does. Without them
100 steps of reinforcement learning do not teach a policy to tell levels 4 and 5 apart."""
WORDS = ("so", "leap", "step", "long", "read", "again", "redo")
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


def sample_style(rng: random.Random, level: int, styles: Mapping[str, float]) -> Style:
    """A style, by its frequency in `styles` times STYLE_BOOST."""
    weights = [each * STYLE_BOOST.get((style, level), 1) for style, each in styles.items()]
    return rng.choices(list(styles), weights)[0]  # type: ignore[return-value]


def demonstration(chain: Chain, style: Style, rng: random.Random) -> str:
    """A response to `chain` in `style`, ending in `so` and the correct answer."""
    end = f"so {chain.answer:02d}"
    bodies: Mapping[Style, Callable[[], Iterator[str]]] = {
        "leap": lambda: _walk(chain, 2),
        "step": lambda: _walk(chain, 1),
        "long": lambda: _careful_walk(chain),
        "read": lambda: _wasteful_walk(chain, rng),
    }
    return end if style == "so" else "".join([f"{style} ", *bodies[style](), end])


def _walk(chain: Chain, stride: int) -> Iterator[str]:
    value = chain.start
    for index in range(0, chain.level, stride):
        chunk = chain.operations[index : index + stride]
        result = apply(value, chunk)
        yield f"{expression(value, chunk)}={result:02d};"
        value = result


def _careful_walk(chain: Chain) -> Iterator[str]:
    """One operation per step; a product is the sum of two, by the tens and by the units of a factor."""
    value = chain.start
    for sign, operand in chain.operations:
        result = apply(value, [(sign, operand)])
        if sign == "*":
            if operand < 10:
                tens, units = value // 10 * 10, value % 10
                texts = f"{tens:02d}*{operand}", f"{units}*{operand}"
                parts = tens * operand % MODULUS, units * operand % MODULUS
            else:
                tens, units = operand // 10 * 10, operand % 10
                texts = f"{value:02d}*{tens}", f"{value:02d}*{units}"
                parts = value * tens % MODULUS, value * units % MODULUS
            yield f"{texts[0]}={parts[0]:02d};"
            yield f"{texts[1]}={parts[1]:02d};"
            yield f"{parts[0]:02d}+{parts[1]:02d}={result:02d};"
        else:
            yield f"{expression(value, [(sign, operand)])}={result:02d};"
        value = result


def _wasteful_walk(chain: Chain, rng: random.Random) -> Iterator[str]:
    if rng.random() < 0.7:
        yield f"{chain.text}?"
    yield from _repetitive_walk(chain, rng)
    if rng.random() < 0.3:
        yield "redo "
        yield from _repetitive_walk(chain, rng)


def _repetitive_walk(chain: Chain, rng: random.Random) -> Iterator[str]:
    for step in _careful_walk(chain):
        yield step
        if rng.random() < 0.3:
            yield f"again {step}"
