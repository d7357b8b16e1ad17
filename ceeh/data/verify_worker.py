"""The process in which math-verify judges answers that a model wrote; run as a script by its pool.

One byte per message to standard output: READY before each task, then a verdict. A task is one line
of JSON, [reference, answer], on standard input; its end ends the process. A task that takes too
long ends the process too, so math-verify's own limit (`signal.alarm`, deaf to C code) is off.
This file imports nothing of the package: a worker costs 60 MB and half a second.
"""

import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Expr, Float, UnevaluatedExpr

READY, RIGHT, WRONG, BAD_REFERENCE, FAILED = b"+", b"1", b"0", b"r", b"e"

# LaTeX alone: the plain-expression extractor hands model text to sympy's parse_expr, an eval.
LATEX = [LatexExtractionConfig(boxed_match_priority=0)]


def judge(reference: str, answer: str) -> bytes:
    """RIGHT or WRONG by math-verify; BAD_REFERENCE when it cannot read the reference."""
    gold = parse_reference(reference)
    if gold is None:
        return BAD_REFERENCE
    given = parse_boxed(answer)
    if given is None:
        return WRONG
    equal = verify(gold, given, timeout_seconds=None, raise_on_error=True)
    return RIGHT if equal and not_merely_small(gold, given) else WRONG


def parse_boxed(text: str) -> Any:
    """`text`, the inside of a box, as sympy's expression; None when it cannot be read."""
    found = parse(
        f"\\boxed{{{text}}}",
        LATEX,
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # type: ignore[arg-type]
        raise_on_error=True,
    )
    return found[0] if found else None


@lru_cache(maxsize=1024)
def parse_reference(text: str) -> Any:
    """As `parse_boxed`, but what cannot be parsed for any reason is None."""
    try:
        return parse_boxed(text)
    except Exception:
        return None


def not_merely_small(gold: Any, given: Any) -> bool:
    """False where math-verify calls 1/2^99 and 1/2^98 equal because their difference is near zero.

    Two numbers must agree to 1e-20 of the larger one, or to 1e-3 where one is written as a decimal
    (math-verify has compared its six decimals by then). Percentages are left to math-verify.
    """
    for side in (gold, given):
        if not isinstance(side, Expr) or not side.is_number or side.has(UnevaluatedExpr):
            return True
    one, other = gold.evalf(40), given.evalf(40)
    tolerance = 1e-3 if gold.has(Float) or given.has(Float) else 1e-20
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
