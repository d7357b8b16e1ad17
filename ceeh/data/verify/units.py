"""Units at the end of an answer: splits them off and compares them."""

import re

_NAMES = """
    mm millimeter millimetre, cm centimeter centimetre, m meter metre, km kilometer kilometre,
    in inch inche, ft foot feet, yd yard, mi mile, mg milligram, g gram, kg kilogram, lb pound, oz ounce,
    ms millisecond, s sec second, min minute, h hr hour, day, week, month, year yr,
    ml milliliter millilitre, l liter litre, N newton, J joule, W watt, V volt, K kelvin, Hz hertz, eV,
    mi/h mph, deg degree, rad radian, $ dollar usd, cent, / per
"""
"""A unit and its other names. Plurals with s are added."""
_UNITS = {
    word: unit
    for unit, *names in map(str.split, _NAMES.split(","))
    for name in (unit, *names)
    for word in ((name, f"{name}s") if len(name) > 1 else (name,))
}
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Words that multiply, as powers of ten."""
_NEVER = {
    *("and", "or", "not", "no", "is", "if", "for", "to", "mod", "half", "squared", "cubed"),
    *("plus", "minus", "times", "over", "choose", "factorial", *SCALES),
}

_PIECE = re.compile(
    r"(?:\\text ?\{(?P<text>[^{}\\]{1,40})\}|\\?(?P<dollar>\$)|\^ ?\{? ?(?P<circle>\\circ) ?\}?"
    r"|(?<![A-Za-z\\_^{])(?P<word>[A-Za-z]{2,20}))"
    r"(?: ?\^ ?\{? ?(?P<power>-?[1-9]) ?\}?)?$",
    re.ASCII,
)
_WORD = re.compile(r"[A-Za-z]+|/|\$|\^?-?[1-9]", re.ASCII)
_AFTER_NUMBER = re.compile(r"\d[}.]?(?: [A-Za-z]{2,20}){0,3}$", re.ASCII)
_ANGLE_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_OPERATOR = ("+", "-", "=", "^", "_", "*", "(", ",", "<", ">", "\\times", "\\cdot", "\\pm")


def split_unit(text: str) -> tuple[str, str]:
    r"""The text before the unit at the end, and the unit: "" if there is none, "?" if unknown.

    A unit is a final \text{...} of words; a dollar sign; a degree sign, except in the argument of a
    trigonometric function; a word of the table or, after a number, any word of four letters or more.
    A single letter outside \text is a variable.
    """
    rest, unit = text, ""
    while match := _PIECE.search(rest[-64:]):
        head = rest[: -len(match[0])].rstrip()
        link = "/" if head.endswith("/") else " "
        head = head.removesuffix("/").rstrip()
        if not head or not _is_unit(match, head):
            break
        words = match["text"] or match["word"] or match["dollar"] or "deg"
        unit = f"{link}{words}{match['power'] or ''}{unit}"
        rest = head
    if rest.endswith(_OPERATOR):
        return text, ""
    if rest.startswith("\\$"):
        rest, unit = rest[2:].lstrip(), f"{unit} $"
    return rest, _in_symbols(unit) if unit else ""


def same_unit(one: str, other: str) -> bool:
    """Only two known units can differ; a missing or unknown unit equals any."""
    return one == other or "" in (one, other) or "?" in (one, other)


def _is_unit(match: re.Match[str], head: str) -> bool:
    words = match["text"] if match["text"] is not None else match["word"]
    if match["circle"]:
        return _ANGLE_OF.search(head) is None
    if words is None:
        return True
    if any(character.isdigit() or character in "()%=<>,+" for character in words):
        return False
    names = words.replace("/", " ").split()
    if not names or any(name.lower() in _NEVER for name in names):
        return False
    if match["text"] is not None or words in _UNITS:
        return True
    return (len(words) > 3 or words in _POWERS) and _AFTER_NUMBER.search(head[-80:]) is not None


def _in_symbols(words: str) -> str:
    """cm2 for "square centimeters" and "cm^2"; "?" if a word is not in the table."""
    written, power = "", ""
    for name in _WORD.findall(words):
        if name in _POWERS:
            power = _POWERS[name]
        elif name[-1].isdigit():
            written += name.removeprefix("^")
        elif (unit := _UNITS.get(name) or _UNITS.get(name.lower())) is not None:
            written += unit + power
            power = ""
        else:
            return "?"
    return written or "?"
