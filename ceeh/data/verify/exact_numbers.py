"""Numbers as models and data sets write them, parsed as Fractions without rounding."""

import re
from collections.abc import Callable
from fractions import Fraction

MAX_NUMBER_CHARACTERS = 100

_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_PART = rf"(?:\{{ ?([+-]? ?{_DECIMAL}) ?\}}|(\d))"


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", ""))


def _scaled(factor: str | None, *exponents: str | None) -> Fraction:
    power = next(exponent for exponent in exponents if exponent is not None)
    return _decimal(factor or "1") * Fraction(10) ** int(power.replace(" ", ""))


def _divided(whole: str | None, *parts: str | None) -> Fraction | None:
    above, below = (_decimal(part) for part in parts if part is not None)
    if below == 0 or (whole is not None and (above < 0 or below < 0)):
        return None
    return above / below + int(whole or 0)


def _repeating(before: str, once: str, again: str) -> Fraction:
    difference = int(before + once + again) - int(before + once or "0")
    return Fraction(difference, (10 ** len(again) - 1) * 10 ** len(once))


_FORMS: list[tuple[re.Pattern[str], Callable[..., Fraction | None]]] = [
    (re.compile(pattern, re.ASCII), value)
    for pattern, value in (
        (rf"({_DECIMAL})", _decimal),
        (rf"({_DECIMAL}) ?/ ?([+-]?{_DECIMAL})", lambda *parts: _divided(None, *parts)),
        (rf"(?:(\d+) ?)?\\frac ?{_PART} ?{_PART}", _divided),
        (r"(\d+) (\d+) ?/ ?(\d+)", _divided),  # 1 1/2
        (rf"({_DECIMAL})[eE]([+-]?\d{{1,3}})", _scaled),
        (
            rf"(?:({_DECIMAL}) ?(?:\\times|\\cdot|\*|x) ?)?"
            r"10 ?\^ ?(?:\{ ?([+-]? ?\d{1,3}) ?\}|([+-]?\d{1,3}))",
            _scaled,
        ),
        (r"(\d*)\.(\d*) ?\\(?:overline|bar) ?\{ ?(\d+) ?\}", _repeating),
    )
]


def as_number(text: str) -> Fraction | None:
    r"""The number in a cleaned text without unit, such as 1,000, -.5, \frac12, 1\frac{1}{2}, 1 1/2, 3/4,
    1.2 \times 10^{3}, 1e-5, 0.\overline{3}; None for anything else, or if too long or undefined."""
    if len(text) > MAX_NUMBER_CHARACTERS:
        return None
    body = text[1:].lstrip() if text[:1] in ("+", "-") else text
    for pattern, value in _FORMS:
        if match := pattern.fullmatch(body):
            number = value(*match.groups())
            return -number if number is not None and text[0] == "-" else number
    return None
