"""Plain answers, parsed and compared exactly without math-verify: numbers, lists, tuples, words."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

from ceeh.data.verify.exact_numbers import MAX_NUMBER_CHARACTERS, as_number
from ceeh.data.verify.extract import MAX_ANSWER_CHARACTERS, clean, squeezed
from ceeh.data.verify.units import SCALES, same_unit, split_unit

MAX_ITEMS = 64
MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number (a float if infinite), whether a percent sign followed, and its unit."""

    value: Fraction | float
    percent: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Values:
    """A list, tuple or interval; a single number is a list of one.

    `brackets` is "" for a list, "()" for a tuple or open interval, or "[]", "[)", "(]". `name` is what
    precedes an equals sign.
    """

    brackets: str
    items: tuple["Quantity | Values", ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    r"""`product` if it may be a product of variables: two or three letters outside \text{}."""

    text: str
    product: bool


Plain = Values | Word


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAnswer:
    """`plain` if it is so; `latex` is for math-verify, without the `unit` that it would misread."""

    plain: Plain | None
    latex: str
    unit: str


def parse_answer(text: str) -> ParsedAnswer | None:
    """None if it cannot be an answer: empty, too long, or with characters that are not mathematics."""
    # The cache holds the texts, so they must be short.
    return _parse_short(text) if len(text) <= MAX_ANSWER_CHARACTERS else None


@lru_cache(maxsize=4096)
def _parse_short(text: str) -> ParsedAnswer | None:
    cleaned = clean(text)
    if cleaned is None:
        return None
    plain = parse_plain(cleaned)
    if plain is None and not cleaned.isascii():
        return None
    latex, unit = split_unit(cleaned)
    if not latex.replace(".", "").isdecimal():  # math-verify misreads some notations of a number
        match plain:
            case Values("", (Quantity(Fraction() as value, percent=False),), name=""):
                latex = str(value)
    return ParsedAnswer(plain=plain, latex=latex, unit=unit)


def parse_plain(text: str) -> Plain | None:
    """A cleaned answer (`ceeh.data.verify.extract.clean`); None if it is not plain."""
    grouped = _TEXT.fullmatch(text)
    inside = grouped[1].strip() if grouped else text
    if (values := _values(inside, 0)) is not None:
        return values
    named = _NAME.match(text)
    if named and "=" not in text[named.end() :]:
        values = _values(text[named.end() :], 0)
        return values and replace(values, name=squeezed(named[1]))
    word = inside.removeprefix("(").removesuffix(")").strip()
    if not word[:1].isalpha() or not all(c.isalpha() or c in " -'" for c in word):
        return None
    product = grouped is None and len(word) in (2, 3)
    return Word(word if len(word) == 1 else " ".join(word.casefold().split()), product)


def same(reference: Plain | None, answer: Plain | None) -> bool | None:
    """Whether `answer` is correct; None if math-verify must decide."""
    if isinstance(reference, Word) and isinstance(answer, Word):
        if reference.text == answer.text:
            return True
        return None if reference.product and answer.product else False
    for word in (reference, answer):
        if isinstance(word, Word) and len(word.text) > 1 and not word.product:
            return False
    if isinstance(reference, Values) and isinstance(answer, Values):
        names = (reference.name, answer.name)
        return _same_values(reference, answer) and ("" in names or names[0] == names[1])
    return None


def canonical(plain: Plain) -> str:
    """One spelling of equal answers: no unit, percent sign or name; lists sorted, without repeats."""
    if isinstance(plain, Word):
        return plain.text
    items = [canonical(i) if isinstance(i, Values) else str(i.value) for i in plain.items]
    if plain.brackets:
        return f"{plain.brackets[0]}{','.join(items)}{plain.brackets[1]}"
    items = sorted(set(items))
    return items[0] if len(items) == 1 else f"{{{','.join(items)}}}"


def _same_values(reference: Values, answer: Values) -> bool:
    wanted, given = reference.items, answer.items
    if reference.brackets:
        brackets = (reference.brackets, answer.brackets)
        return (
            (brackets[0] == brackets[1] or brackets == ("()", ""))
            and len(wanted) == len(given)
            and all(map(_same_item, wanted, given))
        )
    if answer.brackets not in ("", "()"):
        return False
    if answer.brackets and len(given) != len(set(wanted)):
        return False
    return all(any(_same_item(w, g) for g in given) for w in wanted) and all(
        any(_same_item(w, g) for w in wanted) for g in given
    )


def _same_item(wanted: Quantity | Values, given: Quantity | Values) -> bool:
    if isinstance(wanted, Values) and isinstance(given, Values):
        return _same_values(wanted, given)
    if isinstance(wanted, Values) or isinstance(given, Values):
        return False
    if not same_unit(wanted.unit, given.unit):
        return False
    if wanted.percent == given.percent:
        return wanted.value == given.value
    percent, number = (wanted, given) if wanted.percent else (given, wanted)
    return number.value in (percent.value, percent.value / 100)


_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_NAME = re.compile(r"([A-Za-z\\][\w\\{}()' ]{0,40}?) ?(?:=|\\in(?![A-Za-z])) ?", re.ASCII)
_PERCENT = re.compile(r" ?(?:\\?%|\\text ?\{ ?percent ?\}|(?<![A-Za-z])percent)$")
_SCALE = re.compile(rf" ?(?:\\text ?\{{ ?)?(?<![A-Za-z])({'|'.join(SCALES)}) ?\}}?$")
_BASE = re.compile(r"(\w+) ?_ ?(?:\{ ?(\d{1,2}) ?\}|(\d{1,2}))", re.ASCII)
_AND = re.compile(r",? (?:and|or) ")
_BRACKETS = {"()": "()", "[]": "[]", "[)": "[)", "(]": "(]", "\\}": "", "{}": ""}


def _quantities(text: str) -> tuple[Quantity, ...] | None:
    r"""One number with or without unit, or the two of \pm; None for anything else."""
    if (number := as_number(text)) is not None:
        return (Quantity(number),)
    if len(text) > 2 * MAX_NUMBER_CHARACTERS:
        return None
    if text.lstrip("+- ") == r"\infty":
        return (Quantity(-math.inf if text[0] == "-" else math.inf),)
    if text.startswith(r"\pm"):
        both = _quantities(text.removeprefix(r"\pm").lstrip("+ "))
        return both and (both[0], replace(both[0], value=-both[0].value))
    if match := _PERCENT.search(text):
        number = as_number(text[: match.start()])
        return None if number is None else (Quantity(number, percent=True),)
    if match := _BASE.fullmatch(text):
        rest, unit = match[1], f"base {match[2] or match[3]}"
    else:
        rest, unit = split_unit(text)
    scale = _SCALE.search(rest)
    number = as_number(rest[: scale.start()] if scale else rest)
    if number is None:
        return None
    return (Quantity(number * 10 ** (SCALES[scale[1]] if scale else 0), unit=unit),)


def _values(text: str, depth: int) -> Values | None:
    """A number, a list or a tuple; None for anything else, or when nested too deeply."""
    if (quantities := _quantities(text)) is not None:
        return Values("", quantities)
    if text == r"\emptyset":
        return Values("", ())
    if depth == MAX_DEPTH:
        return None
    brackets = _BRACKETS.get(text[:1] + text[-1:])
    if brackets is None or not _closes_at_end(text):
        return _members("", text, depth)
    inside = text[2:-2].strip() if text[0] == "\\" else text[1:-1].strip()
    if text[0] == "{":
        return _values(inside, depth + 1)
    if not inside:
        return Values("", ()) if brackets == "" else None
    if brackets in ("", "()") and "," not in inside and (one := _quantities(inside)) is not None:
        return Values("", one)
    return _members(brackets, inside, depth)


def _members(brackets: str, text: str, depth: int) -> Values | None:
    """The list, tuple or interval of the items in `text`.

    A comma and a space always separate; a comma alone may be of a number, as in 1,000, 2,000.
    """
    text = _AND.sub(", ", text)
    for separators in ((", ", "; "), (",", ";")):
        pieces = list(_pieces(text, separators))
        if not 2 <= len(pieces) <= MAX_ITEMS or (brackets not in ("", "()") and len(pieces) != 2):
            continue
        items: list[Quantity | Values] = []
        for piece in pieces:
            quantities = None if re.match(r"[+-]?0\d", piece) else _quantities(piece)
            if quantities is not None and (len(quantities) == 1 or brackets == ""):
                items += quantities
            elif (values := _values(piece, depth + 1)) is not None and values.brackets:
                items.append(values)
            else:
                break
        else:
            return Values(brackets, tuple(items))
    return None


def _pieces(text: str, separators: tuple[str, ...]) -> Iterator[str]:
    start = 0
    for index, depth in enumerate(_depths(text)):
        if depth == 0 and text.startswith(separators, index):
            yield text[start:index].strip()
            start = index + 1
    yield text[start:].strip()


def _closes_at_end(text: str) -> bool:
    """Whether the last character closes the first bracket."""
    closing = (index for index, depth in enumerate(_depths(text)) if index > 0 and depth == 0)
    return next(closing, None) == len(text) - 1


def _depths(text: str) -> Iterator[int]:
    """The number of open brackets after each character."""
    return accumulate((c in "([{") - (c in ")]}") for c in text)
