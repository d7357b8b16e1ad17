"""Math-verify on answers that a model wrote, as a judge in a worker process (`verify_worker.py`).

A task is (reference, answer). A task that takes too long ends the process, so math-verify's own limit
(`signal.alarm`, deaf to C code) is off. This file imports nothing of the package: a worker costs 60 MB
and half a second.
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

RIGHT, WRONG, UNREADABLE = ["ok", 1.0], ["ok", 0.0], ["unreadable"]


# Not `math_verify.parse`: it hunts for LaTeX in prose, drops final letters as units ("2 g" is 2) and
# small letters for capitals; its search for plain expressions hands model text to an eval.
NORMAL = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
CASED = ConversionConfig(lowercase_symbols=False)
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
DEGREES = re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)")


# Digits to which a difference must vanish; at 15, math-verify's own, 1/2^99 equals 1/2^98.
DIGITS = 60


def build() -> Callable[[str, str], list[Any]]:
    """The judge, warm: the first judgment of a process takes longer."""
    logging.disable(logging.CRITICAL)
    judge("x", "x")
    return judge


def judge(reference: str, answer: str) -> list[Any]:
    """RIGHT or WRONG by math-verify; UNREADABLE when it cannot read the reference."""
    gold = read_reference(reference)
    if gold is None:
        return UNREADABLE
    given = read(answer)
    if given is None:
        return WRONG
    equal = verify(
        gold,
        given,
        numeric_precision=DIGITS,
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=True,
    )
    return RIGHT if equal and not_merely_small(gold, given) else WRONG


def read(latex: str) -> Any:
    """`latex` as sympy's expression; None when it cannot be read.

    Degrees are converted where there is a trigonometric function and left out elsewhere.
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
    """False for two numbers that math-verify calls equal because their difference is near zero.

    They must agree to 1e-20 of the larger one, or to 1e-6 where one is written as a decimal
    (math-verify has compared its six decimals by then). Percentages are left to math-verify.
    """
    for side in (gold, given):
        if not isinstance(side, Expr) or not side.is_number or side.has(UnevaluatedExpr):
            return True
    one, other = gold.evalf(40), given.evalf(40)
    if not (one.is_finite and other.is_finite):
        return True
    tolerance = 1e-6 if gold.has(Float) or given.has(Float) else 1e-20
    return bool(abs(one - other) <= tolerance * max(abs(one), abs(other)))
