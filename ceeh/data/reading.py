"""What an answer or a reference says, as far as it can be read without math-verify."""

from dataclasses import dataclass
from functools import lru_cache

from ceeh.data.answers import MAX_ANSWER_CHARACTERS, clean
from ceeh.data.plain import Plain, Values, exact_latex, read
from ceeh.data.units import split_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """`plain` where it is so; `latex` is for math-verify, without the `unit` that it would misread."""

    plain: Plain | None
    latex: str
    unit: str


def reading(text: str) -> Reading | None:
    """None when nothing could read it: empty, endless, or with characters that are no mathematics."""
    # Readings are kept by their text, so nothing endless may be among it.
    return _reading(text) if len(text) <= MAX_ANSWER_CHARACTERS else None


@lru_cache(maxsize=4096)
def _reading(text: str) -> Reading | None:
    cleaned = clean(text)
    if cleaned is None:
        return None
    plain = read(cleaned)
    if plain is None and not cleaned.isascii():
        return None
    latex, unit = split_unit(cleaned)
    if isinstance(plain, Values) and not plain.name and not latex.replace(".", "").isdecimal():
        latex = exact_latex(plain) or latex
    return Reading(plain=plain, latex=latex, unit=unit)
