"""Relations, set builders and differences of sets as intervals of the real line, where that is plain."""

import math
from itertools import pairwise

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import INFINITY, Expr, value_of

_FLIPPED = {">": "<", ">=": "<="}
_MINUS_INFINITY = ex.negative(INFINITY)
INFINITE_VALUES = {INFINITY: math.inf, _MINUS_INFINITY: -math.inf}
_INTERVALS = ("()", "(]", "[)", "[]")


def _between(low: Expr, high: Expr, brackets: str = "()") -> Expr:
    return ("seq", brackets, (value_of(low), value_of(high)))


REALS = _between(_MINUS_INFINITY, INFINITY)


def as_set(value: Expr) -> Expr:
    """An inequality of one variable, a set builder or a difference of sets as intervals, if plain."""
    match value:
        case ("rel", *_):
            return _interval(*ascending(value)) or value
        case ("builder", variable, "", condition):
            inside = as_set(condition)
            named = ex.variables(condition) == {variable}
            return inside if inside != condition and named else value
        case ("set", "R"):
            return REALS
        case ("op", r"\setminus", (whole, ("seq", "{}", points))) if as_set(whole) == REALS:
            return _without_points([p[1] for p in points if p[0] == "val"], len(points)) or value
        case ("op", sign, items):
            sets = tuple(map(as_set, items))
            return (_intersection(sets) if sign == r"\cap" else None) or ("op", sign, sets)
    return value


def ascending(relation: Expr) -> tuple[tuple[str, ...], tuple[Expr, ...]]:
    """The signs and sides of a relation, read from the smaller to the larger side."""
    _, signs, sides = relation
    if all(sign in _FLIPPED for sign in signs):
        return tuple(_FLIPPED[sign] for sign in reversed(signs)), sides[::-1]
    return signs, sides


def _interval(signs: tuple[str, ...], sides: tuple[Expr, ...]) -> Expr | None:
    """The interval of a relation between a variable and one or two bounds; None for another one."""
    middle = [i for i, side in enumerate(sides) if side[0] in ("sym", "app")]
    if len(middle) != 1:
        return None
    at = middle[0]
    bounds = sides[:at] + sides[at + 1 :]
    if any(sides[at] in ex.walk(bound) for bound in bounds):
        return None
    if signs == ("!=",):
        return _without_points(list(bounds), 1)
    if set(signs) - {"<", "<="} or not (len(sides) == 2 or (len(sides) == 3 and at == 1)):
        return None
    low, high, left, right = _MINUS_INFINITY, INFINITY, "(", ")"
    if at > 0:
        low, left = sides[at - 1], "[" if signs[at - 1] == "<=" else "("
    if at < len(sides) - 1:
        high, right = sides[at + 1], "]" if signs[at] == "<=" else ")"
    return _between(low, high, left + right)


def _intersection(sets: tuple[Expr, ...]) -> Expr | None:
    """The interval in all of several intervals; None unless all ends are rational or infinite."""
    lows, highs = [], []
    for value in sets:
        match value:
            case ("seq", pair, (("val", low, *_), ("val", high, *_))) if pair in _INTERVALS:
                lows.append((INFINITE_VALUES.get(low, ex.number(low)), pair[0] == "(", low))
                highs.append((INFINITE_VALUES.get(high, ex.number(high)), pair[1] == "]", high))
            case _:
                return None
    if any(end[0] is None for end in (*lows, *highs)):
        return None
    low, high = max(lows, key=lambda end: end[:2]), min(highs, key=lambda end: end[:2])
    brackets = f"{'(' if low[1] else '['}{']' if high[1] else ')'}"
    return _between(low[2], high[2], brackets) if low[0] < high[0] else None


def _without_points(points: list[Expr], count: int) -> Expr | None:
    """The real line without `count` rational points, as a union of open intervals."""
    numbers = sorted({p[1] for p in points if p[0] == "num"})
    if len(numbers) != count:
        return None
    ends = [_MINUS_INFINITY, *map(ex.num, numbers), INFINITY]
    return ("op", r"\cup", tuple(_between(a, b) for a, b in pairwise(ends)))
