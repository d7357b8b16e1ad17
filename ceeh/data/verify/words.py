"""The closed lists of words: mathematics and units. What is on none is never dropped from an answer."""

from collections.abc import Iterable
from fractions import Fraction

_GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi
    psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega Pi hbar
"""
GREEK = frozenset(rf"\{name}" for name in _GREEK_NAMES.split())
SYMBOLS = {name[1:]: name for name in GREEK if len(name) > 4 or name in (r"\phi", r"\psi")}
SYMBOLS["pi"] = r"\pi"
"""Names of Greek letters without backslash."""
_FUNCTIONS = "sin cos tan cot sec csc sinh cosh tanh log ln exp gcd lcm max min det abs arg"
FUNCTIONS = {
    **{name: name for name in _FUNCTIONS.split()},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{"lg": "log", "Re": "re", "Im": "im"},
}
FUNCTIONS |= {rf"\{name}": function for name, function in FUNCTIONS.items()}
_ONES = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {
    **{name: n for n, name in enumerate(_ONES.split())},
    **{name: 10 * n for n, name in enumerate(_TENS.split(), 2)},
}
SCALES = {
    **{"dozen": Fraction(12), "hundred": Fraction(100), "thousand": Fraction(1000)},
    **{f"{name}illion": Fraction(1000) ** n for n, name in enumerate(("m", "b", "tr", "quadr"), 2)},
}
SCALES |= {f"{name}s": scale for name, scale in SCALES.items()}
_SHORT = "yes no odd all any one two six ten red mon tue wed thu fri sat sun non dne per am pm cm"
SHORT_WORDS = frozenset(_SHORT.split())
"""Words of up to three letters that are no products of variables."""
_CLAUSE = "for all any every each real reals number numbers value values of integer integers"
CLAUSE_WORDS = frozenset(_CLAUSE.split())
"""The words of a clause that may be left out: for all real numbers x."""
LINKS = (",", ";", "and", "or")
_STOPS = "and or for mod am pm AM PM percent pct percentage per"
STOPS = frozenset(_STOPS.split())
INFINITE = ("infinity", "inf", "oo")
_SIGNS = frozenset(["sqrt", "negative", "minus", "positive", *INFINITE])


def is_mathematical(word: str) -> bool:
    """Whether a word is a number, a function, a letter's name or a sign."""
    exact = any(word in words for words in (FUNCTIONS, SYMBOLS, STOPS, _SIGNS))
    return exact or word.lower() in SCALES or word.lower() in NUMBERS


_UNITS = """
    m meter metre, cm centimeter centimetre, mm millimeter millimetre, km kilometer kilometre,
    nm nanometer nanometre, in inch inche, ft foot feet, yd yard, mi mile, g gram gm, kg kilogram,
    mg milligram, lb pound, oz ounce, ton tonne, s sec second, ms millisecond, min minute, h hr hour,
    day, week, month, year yr, decade, century centurie, L liter litre l, mL ml milliliter millilitre,
    gal gallon, qt quart, pt pint, cup, tbsp tablespoon, tsp teaspoon, N newton, J joule, kJ kilojoule,
    W watt, kW kilowatt, V volt, A amp ampere, C coulomb, K kelvin, Hz hertz, Pa pascal, mol mole,
    atm atmosphere, Ohm ohm, eV, cal calorie, rpm, mi/h mph, km/h kmh kph, mi/gal mpg, acre, hectare ha,
    deg degree, degC celsius, degF fahrenheit, rad radian, sr, $ dollar usd buck, cent, penny pennie,
    nickel, dime, euro, yen, rupee, yuan, AU au, ly lightyear, pc parsec, erg, dyn dyne, T tesla, kn knot,
    unit, person people, student, child children, boy, girl, man men, woman women, adult, player, team,
    member, friend, worker, customer, passenger, guest, voter vote, teacher, kid, way, arrangement,
    permutation, combination, outfit, committee, path, route, step, move, turn, trip, lap, round, game,
    match matche, point, goal, run, book, page, chapter, word, letter, digit, number, integer, value,
    solution, root, term, factor, divisor, multiple, coefficient, subset, set, element, function, line,
    plane, circle, triangle, square, rectangle, quadrilateral, polygon, diagonal, side, edge, face,
    vertex vertice vertices, angle, region, cube, block, tile, box boxe, bag, pack, package, bottle, can,
    jar, glass glasse, piece, slice, pizza, cake, cookie, candy candie, apple, orange, banana, pear, egg,
    lemon, peach peache, grape, strawberry strawberrie, potato potatoe, tomato tomatoe, muffin, donut,
    sandwich sandwiche, meal, ticket, stamp, card, coin, marble, ball, toy, pencil, pen, crayon, sticker,
    flower, rose, tree, plant, bird, dog, cat, fish, cow, horse, chicken, sheep, rabbit, animal, car, bus
    buse, truck, bike, bicycle, train, seat, room, house, window, door, table, chair, shirt, shoe, sock,
    hat, dress dresse, question, problem, test, class classe, lesson, photo, picture, song, call, message,
    brick, bale, crate, basket, row, column, shelf shelve, bead, ribbon, rope, stick, balloon, light,
    bulb, phone, computer, stone, rock, cell, bacteria, atom, molecule, photon, electron, byte, bit, pixel
"""
UNITS: dict[str, str] = {}
"""Each spelling of a unit, with plurals in s, and the unit."""
for _names in _UNITS.split(","):
    for _name in _names.split():
        UNITS[_name] = _names.split()[0]
        if len(_name) > 2:
            UNITS.setdefault(f"{_name}s", UNITS[_name])
UNITS |= {"lbs": "lb", "hrs": "h", "yrs": "year", "secs": "s", "mins": "min", "sheep": "sheep"}
_SI = "m g s L N J W V A C K F H T Pa Hz eV mol Wb cal bar l Ohm"
_TEXT_ONLY = {f"{prefix}{unit}" for prefix in ("", *"pnumcdkMG") for unit in _SI.split()}
_AMBIGUOUS = "mg gm ms mi ml mL nm Pa pc pt qt ha hr ly AU au kn sr can"
_LETTERS_IN_MATH = frozenset(_AMBIGUOUS.split())
"""Units that outside of text are read as products of variables."""
POWERS_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
POWERS_AFTER = {"squared": 2, "cubed": 3}


def unit_named(name: str, *, in_text: bool) -> str | None:
    r"""The unit of a word; None if it is not listed. Outside of \text{} a single letter is a variable."""
    if not in_text and (len(name) == 1 or name in _LETTERS_IN_MATH):
        return None
    unit = UNITS.get(name) or (UNITS.get(name.lower()) if len(name) > 2 else None)
    return unit or (name if in_text and name in _TEXT_ONLY else None)


def unit_text(powers: Iterable[tuple[str, int]]) -> str:
    """One spelling of a product of powers of units: "kg m s-2"."""
    total: dict[str, int] = {}
    for units, power in powers:
        for i, unit in enumerate(units.split("/")):
            total[unit] = total.get(unit, 0) + (-power if i else power)
    return " ".join(u if p == 1 else f"{u}{p}" for u, p in sorted(total.items()) if p)
