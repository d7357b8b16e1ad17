"""The closed lists of words that are read as mathematics."""

from fractions import Fraction

from ceeh.data.verify.tokens import GREEK

FUNCTIONS = {
    **{
        name: name
        for name in [
            "sin",
            "cos",
            "tan",
            "cot",
            "sec",
            "csc",
            "sinh",
            "cosh",
            "tanh",
            "log",
            "ln",
            "exp",
            "gcd",
            "lcm",
            "max",
            "min",
        ]
    },
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{"lg": "log", "det": "det", "Re": "re", "Im": "im", "abs": "abs", "arg": "arg"},
}
SYMBOLS = {name[1:]: name for name in GREEK} | {"pi": r"\pi"}
SCALES = {
    **{"dozen": Fraction(12), "hundred": Fraction(100), "thousand": Fraction(1000)},
    **{f"{name}illion": Fraction(1000) ** n for n, name in enumerate(["m", "b", "tr", "quadr"], 2)},
}
SCALES |= {f"{name}s": scale for name, scale in SCALES.items()}
_ORDINALS = ["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
FRACTIONS = {"half": Fraction(1, 2), "halves": Fraction(1, 2)}
FRACTIONS |= {"quarter": Fraction(1, 4), "quarters": Fraction(1, 4)}
for _n, _name in [*enumerate(_ORDINALS, 3), (100, "hundredth"), (1000, "thousandth")]:
    FRACTIONS |= {_name: Fraction(1, _n), f"{_name}s": Fraction(1, _n)}
_UP_TO_NINETEEN = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
NUMBERS = {name: n for n, name in enumerate(_UP_TO_NINETEEN.split())}
NUMBERS |= {
    name: 10 * n
    for n, name in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2
    )
}
CLAUSE_WORDS = frozenset(
    [
        "for",
        "all",
        "any",
        "every",
        "each",
        "real",
        "reals",
        "number",
        "numbers",
        "value",
        "values",
        "of",
        "integer",
        "integers",
    ]
)
"""The words of a clause that may be left out: for all real numbers x."""
