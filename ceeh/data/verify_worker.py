"""The process in which math-verify judges answers that a model wrote; run as a script by its pool.

One byte per message to standard output: READY before each task, then a verdict. A task is one line
of JSON, [reference, answer], on standard input; its end ends the process. A task that takes too
long ends the process too, so math-verify's own limit (`signal.alarm`, deaf to C code) is off.
This file imports nothing of the package: a worker costs 60 MB and half a second.
"""

import json
import logging
import os
import re
import resource
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy import Expr, Float, I, UnevaluatedExpr

READY, RIGHT, WRONG, UNREADABLE, FAILED = b"+", b"1", b"0", b"r", b"e"

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


def judge(reference: str, answer: str) -> bytes:
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


def set_limit(kind: int, value: int) -> None:
    """Sets the soft limit; the hard one may be lower already, by a batch system or a container."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def address_space() -> int:
    """Bytes of address space, what RLIMIT_AS limits; `ru_maxrss` would count the parent's."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main(timeout_seconds: float, memory_mib: int) -> None:
    """Judges tasks until standard input ends or half of the memory limit was used.

    A nearly full process would fail on innocent answers, so it leaves between two tasks. The limit
    is processor time, by a timer whose signal nobody handles: the kernel ends the process wherever
    it is, in C code or with its parent gone, and a busy machine does not make right answers late.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    verdicts = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    limit = memory_mib * 2**20
    set_limit(resource.RLIMIT_AS, limit)
    set_limit(resource.RLIMIT_CORE, 0)
    judge("x", "x")
    while address_space() < limit / 2:
        os.write(verdicts, READY)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        signal.setitimer(signal.ITIMER_PROF, timeout_seconds)
        try:
            verdict = judge(*json.loads(line))
        except Exception:
            verdict = FAILED
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(verdicts, verdict)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
