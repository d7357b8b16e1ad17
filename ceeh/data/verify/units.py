"""The closed list of units. What is not listed here is never dropped from an answer."""

from collections.abc import Iterable

_SI = "m g s L N J W V A C K F H T Pa Hz eV mol Wb cal bar l Ohm"
_PREFIXES = "pnumcdkMG"
_NAMES = """
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
for _names in _NAMES.split(","):
    _unit, *_others = _names.split()
    for _name in (_unit, *_others):
        UNITS[_name] = _unit
        if len(_name) > 2:
            UNITS.setdefault(f"{_name}s", _unit)
UNITS |= {"lbs": "lb", "hrs": "h", "yrs": "year", "secs": "s", "mins": "min", "sheep": "sheep"}
_TEXT_ONLY = {f"{prefix}{unit}" for prefix in ("", *_PREFIXES) for unit in _SI.split()}
_AMBIGUOUS = "mg gm ms mi ml mL nm Pa pc pt qt ha hr ly AU au kn sr can"
_LETTERS_IN_MATH = frozenset(_AMBIGUOUS.split())
"""Units that outside of text are read as products of variables."""
POWERS_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
POWERS_AFTER = {"squared": 2, "cubed": 3}


def unit_named(name: str, *, in_text: bool) -> str | None:
    r"""The unit of a word; None if it is not listed. Outside of \text{} a single letter is a variable."""
    if not in_text and (len(name) == 1 or name in _LETTERS_IN_MATH):
        return None
    if name in UNITS:
        return UNITS[name]
    if len(name) > 2 and name.lower() in UNITS:
        return UNITS[name.lower()]
    return name if in_text and name in _TEXT_ONLY else None


def unit_text(powers: Iterable[tuple[str, int]]) -> str:
    """One spelling of a product of powers of units: "kg m s-2"."""
    total: dict[str, int] = {}
    for units, power in powers:
        above, *below = units.split("/")
        for unit, sign in ((above, 1), *((unit, -1) for unit in below)):
            total[unit] = total.get(unit, 0) + sign * power
    return " ".join(u if p == 1 else f"{u}{p}" for u, p in sorted(total.items()) if p)
