"""math-verify as the grader of a worker process (`worker.py`); a task is (reference, answer).

A task that takes too long ends the process. math-verify's own limit, `signal.alarm`, cannot interrupt C
code and is off. This file imports nothing of the package: a worker costs 60 MB and half a second.
"""

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy import Expr, Float, I, UnevaluatedExpr

CORRECT, INCORRECT, UNREADABLE = ["ok", 1.0], ["ok", 0.0], ["unreadable", ""]

# Not `math_verify.parse`: it searches prose for LaTeX, drops final letters as units ("2 g" is 2),
# confuses lower and upper case, and evaluates model text when it looks for plain expressions.
NORMAL = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
CASED = ConversionConfig(lowercase_symbols=False)
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
DEGREES = re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)")
DIGITS = 60
"""Digits to which a difference must vanish. At 15, math-verify's default, 1/2^99 equals 1/2^98."""


def build() -> Callable[[str, str], list[Any]]:
    """The grader, warm: the first answer of a process takes longer."""
    logging.disable(logging.CRITICAL)
    grade("x", "x")
    return grade


def grade(reference: str, answer: str) -> list[Any]:
    """CORRECT or INCORRECT by math-verify; UNREADABLE when it cannot read the reference."""
    gold = read_reference(reference)
    if gold is None:
        return UNREADABLE
    given = read(answer)
    if given is None:
        return INCORRECT
    equal = verify(
        gold,
        given,
        numeric_precision=DIGITS,
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=True,
    )
    return CORRECT if equal and not_merely_small(gold, given) else INCORRECT


def read(latex: str) -> Any:
    """`latex` as a sympy expression; None when it cannot be read.

    Degrees are converted if there is a trigonometric function and ignored otherwise.
    """
    try:
        text = normalize_latex(latex, NORMAL)
        angles = TRIGONOMETRIC.search(text) is not None
        imaginary = should_treat_as_complex(text)
        found = latex2sympy(
            text if angles else DEGREES.sub("", text),
            is_real=not imaginary,
            convert_degrees=angles,
            normalization_config=None,
            conversion_config=CASED,
        )
        if imaginary and isinstance(found, Expr):
            return found.subs({symbol: I for symbol in found.free_symbols if str(symbol) == "i"})
        return found
    except MemoryError:
        raise
    except Exception:
        return None


@lru_cache(maxsize=1024)
def read_reference(latex: str) -> Any:
    return read(latex)


def not_merely_small(gold: Any, given: Any) -> bool:
    """False for two numbers that math-verify calls equal only because their difference is near zero.

    They must agree to 1e-20 of the larger one, or to 1e-6 if one is written as a decimal, of which
    math-verify has compared six places. Percentages are left to math-verify.
    """
    for side in (gold, given):
        if not isinstance(side, Expr) or not side.is_number or side.has(UnevaluatedExpr):
            return True
    one, other = gold.evalf(40), given.evalf(40)
    if not (one.is_finite and other.is_finite):
        return True
    tolerance = 1e-6 if gold.has(Float) or given.has(Float) else 1e-20
    return bool(abs(one - other) <= tolerance * max(abs(one), abs(other)))
