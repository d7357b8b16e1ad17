"""Computer algebra for `MathAnswer`, in a worker process (`worker.py`); a task is two values.

The expressions come from our own reader (`ceeh.data.verify.syntax`), never from the parser of
math-verify, which drops what it does not know. math-verify compares them. A task that takes too long
ends the process; its own limit, `signal.alarm`, cannot interrupt C code and is off.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from operator import mul
from typing import Any

import sympy
from math_verify import verify

CORRECT, INCORRECT = ["ok", 1.0], ["ok", 0.0]
DIGITS = 60
"""Digits to which a difference must vanish. At 15, math-verify's default, 1/2^99 equals 1/2^98."""
MAX_BITS = 300_000
"""A power or factorial with more bits is not computed; the answer is incorrect."""

_NAMES = """
    sin cos tan cot sec csc sinh cosh tanh asin acos atan acot asec acsc log gcd lcm floor ceiling
    binomial re im arg
"""
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(sympy, name) for name in _NAMES.split()},
    **{"ln": sympy.log, "abs": sympy.Abs, "max": sympy.Max, "min": sympy.Min},
    "det": lambda matrix: matrix.det(),
}
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}


class TooLargeError(Exception):
    """The value of an expression is not computed."""


def build(sys_path: Sequence[str]) -> Callable[[Any, Any], list[Any]]:
    """The grader, warm: the first answer of a process takes longer."""
    sys.path[:] = sys_path
    from ceeh.data.verify.compare import same

    def grade(reference: Any, answer: Any) -> list[Any]:
        return CORRECT if same(reference, answer, equal) else INCORRECT

    logging.disable(logging.CRITICAL)
    grade(("val", ("sym", "x"), "", False), ("val", ("^", ("sym", "y"), ("sym", "x")), "", False))
    return grade


def equal(reference: Any, answer: Any, factor: str = "") -> bool:
    """Whether two expressions are equal, or differ by a constant factor: "any" or a "positive" one."""
    if reference == answer:
        return True
    if not factor and reference[0] == answer[0] == "num":
        return reference[1] == answer[1]
    imaginary = _contains(reference, ("const", "i")) or _contains(answer, ("const", "i"))
    try:
        gold, given = (_sympy(side, real=not imaginary) for side in (reference, answer))
    except (TooLargeError, TypeError, ValueError, ArithmeticError, AttributeError):
        return False
    if any(side.has(sympy.nan, sympy.zoo) for side in (gold, given)):
        return False
    if factor:
        return _proportional(gold, given, positive=factor == "positive")
    if differ(gold, given):
        return False
    if reference[0] == "num" and reference[2]:
        gold = sympy.Float(gold, DIGITS)
    if answer[0] == "num" and answer[2]:
        given = sympy.Float(given, DIGITS)
    return verify(
        gold, given, numeric_precision=DIGITS, timeout_seconds=None, raise_on_error=True
    ) and not_merely_small(gold, given)


def differ(gold: Any, given: Any) -> bool:
    """Whether two expressions differ at one point, which is fast; False where that is not certain."""
    try:
        names = sorted(gold.free_symbols | given.free_symbols, key=str)
        point = {name: sympy.Rational(2 * i + 3, 7 + i) for i, name in enumerate(names)}
        one, other = (side.subs(point).evalf(30) for side in (gold, given))
        if not (one.is_Number or one.is_complex) or not (other.is_Number or other.is_complex):
            return False
        return bool(abs(one - other) > 1e-5 * (1 + abs(one)))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False


def not_merely_small(gold: Any, given: Any) -> bool:
    """False for two numbers that math-verify calls equal only because their difference is near zero.

    They must agree to 1e-20 of the larger one, or to 1e-6 if one is written as a decimal, of which
    math-verify has compared six places.
    """
    if not all(isinstance(side, sympy.Expr) and side.is_number for side in (gold, given)):
        return True
    one, other = gold.evalf(40), given.evalf(40)
    if not (one.is_finite and other.is_finite):
        return True
    tolerance = 1e-6 if gold.has(sympy.Float) or given.has(sympy.Float) else 1e-20
    return bool(abs(one - other) <= tolerance * max(abs(one), abs(other)))


def _proportional(gold: Any, given: Any, *, positive: bool) -> bool:
    ratio = sympy.simplify(gold / given)
    if ratio.free_symbols or not ratio.is_number or not ratio.is_finite or ratio == 0:
        return False
    return not positive or bool(ratio > 0)


def _contains(node: Any, part: Any) -> bool:
    return node == part or any(isinstance(n, tuple) and _contains(n, part) for n in node)


def _sympy(node: Any, *, real: bool) -> Any:
    """A node of `ceeh.data.verify.expressions` in sympy. Raises TooLargeError."""
    head, *parts = node
    match head:
        case "num":
            return sympy.Rational(parts[0].numerator, parts[0].denominator)
        case "const":
            return _CONSTANTS[parts[0]]
        case "sym":
            return sympy.Symbol(_name(parts[0]), real=real or None)
        case "matrix":
            return sympy.Matrix([[_sympy(cell, real=real) for cell in row] for row in parts])
    name, *parts = parts if head in ("fn", "app") else ("", *parts)
    values = [_sympy(part, real=real) for part in parts]
    match head:
        case "+":
            return reduce(lambda a, b: a + b, values)
        case "*":
            return reduce(mul, values)
        case "^":
            return _power(*values)
        case "deg":
            return values[0] * sympy.pi / 180
        case "app":
            return sympy.Function(_name(name))(*values)
    if name == "factorial":
        if values[0].is_number and not abs(values[0]) < 2000:
            raise TooLargeError
        return sympy.factorial(values[0])
    if name == "binomial" and values[0].is_number and not abs(values[0]) < 10_000:
        raise TooLargeError
    return _FUNCTIONS[name](*values)


def _power(base: Any, exponent: Any) -> Any:
    if exponent.is_number and base.is_number:
        bits = sympy.log(abs(base.evalf(15)) + 2, 2).evalf(15)
        if not abs(exponent.evalf(15)) * max(bits, 1) < MAX_BITS:
            raise TooLargeError
    elif exponent.is_number and not abs(exponent.evalf(15)) < 1000:
        raise TooLargeError
    return base**exponent


def _name(name: str) -> str:
    """A name whose case and letters math-verify cannot confuse with another."""
    return f"s{name.encode().hex()}"
