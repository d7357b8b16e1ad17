"""The closed lists of words that are read as mathematics."""

from fractions import Fraction

from ceeh.data.verify.tokens import GREEK

_FUNCTIONS = "sin cos tan cot sec csc sinh cosh tanh log ln exp gcd lcm max min det abs arg"
FUNCTIONS = {
    **{name: name for name in _FUNCTIONS.split()},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{"lg": "log", "Re": "re", "Im": "im"},
}
SYMBOLS = {name[1:]: name for name in GREEK if len(name) > 4 or name in (r"\phi", r"\psi")}
SYMBOLS |= {"pi": r"\pi"}
"""Names of Greek letters without backslash."""
SCALES = {
    **{"dozen": Fraction(12), "hundred": Fraction(100), "thousand": Fraction(1000)},
    **{f"{name}illion": Fraction(1000) ** n for n, name in enumerate(("m", "b", "tr", "quadr"), 2)},
}
SCALES |= {f"{name}s": scale for name, scale in SCALES.items()}
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"
_PARTS = {
    **{name: n for n, name in enumerate(_ORDINALS.split(), 3)},
    **{"half": 2, "quarter": 4, "hundredth": 100, "thousandth": 1000},
}
FRACTIONS = {name: Fraction(1, n) for part, n in _PARTS.items() for name in (part, f"{part}s")}
FRACTIONS["halves"] = Fraction(1, 2)
"""After a number: three fifths."""
_UP_TO_NINETEEN = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {name: n for n, name in enumerate(_UP_TO_NINETEEN.split())}
NUMBERS |= {name: 10 * n for n, name in enumerate(_TENS.split(), 2)}
_CLAUSE = "for all any every each real reals number numbers value values of integer integers"
CLAUSE_WORDS = frozenset(_CLAUSE.split())
"""The words of a clause that may be left out: for all real numbers x."""
LINKS = (",", ";", "and", "or")
STOPS = (
    *(
        "and",
        "or",
        "for",
        "mod",
        "am",
        "pm",
        "AM",
        "PM",
        "percent",
        "pct",
        "percentage",
        "below",
        "per",
    ),
)


def is_mathematical(text: str) -> bool:
    """Whether a word is a number, a function, a letter's name or a sign."""
    return (
        text in FUNCTIONS
        or text in ("sqrt", "infinity", "inf", "oo", "negative", "minus", "positive", *STOPS)
        or text in SYMBOLS
        or text.lower() in SCALES
        or text.lower() in NUMBERS
    )
