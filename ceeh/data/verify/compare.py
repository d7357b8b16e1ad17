"""Whether two values are equal, where `equal` decides about expressions; and their one spelling."""

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import INFINITY, Expr

Equal = Callable[[Expr, Expr, str], bool]
"""Whether two expressions are equal, "", or proportional: "any" factor, or a "positive" one."""

_FLIPPED = {">": "<", ">=": "<="}
_MINUS_INFINITY = ex.negative(INFINITY)
_INFINITE = {INFINITY: "inf", _MINUS_INFINITY: "-inf"}
REALS = ("seq", "()", (("val", _MINUS_INFINITY, "", False), ("val", INFINITY, "", False)))


class UndecidedError(Exception):
    """The two expressions need computer algebra."""


def exactly(one: Expr, other: Expr, factor: str = "") -> bool:
    """Whether two expressions are equal, where that is plain. Raises UndecidedError."""
    if one == other:
        return True
    a, b = ex.number(one), ex.number(other)
    if not factor and a is not None and b is not None:
        return a == b
    infinite = [e in (INFINITY, _MINUS_INFINITY) for e in (one, other)]
    if any(infinite) and (all(infinite) or a is not None or b is not None):
        return False
    raise UndecidedError


def same(reference: Expr, answer: Expr, equal: Equal) -> bool:
    """Whether the answer is correct. Asymmetric where the reference has a unit or a percent sign."""
    if reference == answer:
        return True
    match reference, answer:
        case ("qualified", clause, value), ("qualified", other, given):
            return clause == other and same(value, given, equal)
        case ("qualified", _, value), _:
            return same(value, answer, equal)
        case _, ("qualified", _, given):
            return same(reference, given, equal)
        case ("choice", letter, value), ("choice", other, given):
            return letter == other and same(value, given, equal)
        case ("choice", letter, value), _:
            return _is_letter(answer, letter) or same(value, answer, equal)
        case _, ("choice", letter, given):
            return _is_letter(reference, letter) or same(reference, given, equal)
        case ("named", name, value), ("named", other, given) if name == other:
            return same(value, given, equal)
        case ("named", name, ("val", value, "", False)), (
            "named",
            other,
            ("val", given, "", False),
        ):
            swapped = other in ex.symbols(value) and name in ex.symbols(given)  # y = -x, x = -y
            return swapped and equal(_difference(name, value), _difference(other, given), "any")
        case ("named", *_), ("named", *_):
            return False
        case ("named", name, value), ("rel", *_) if value[0] == "seq":
            return _symbols(answer) == {name} and same(value, answer, equal)
        case ("rel", *_), ("named", name, given) if given[0] == "seq":
            return _symbols(reference) == {name} and same(reference, given, equal)
        case ("named", name, value), ("seq", _, items) if any(item[0] == "named" for item in items):
            return name == _names(items) and same(value, _values(items), equal)
        case ("seq", _, items), ("named", name, given) if any(item[0] == "named" for item in items):
            return name == _names(items) and same(_values(items), given, equal)
        case ("named", _, value), _ if answer[0] != "rel":
            return same(value, answer, equal)
        case _, ("named", _, given) if reference[0] != "rel":
            return same(reference, given, equal)
        case ("chain", sides), _:
            return all(same(side, answer, equal) for side in sides)
        case _, ("chain", sides):
            return all(same(reference, side, equal) for side in sides)
        case ("mod", name, residue, modulus), ("mod", other, given, divisor):
            names = "" in (name, other) or name == other
            return (
                names and equal(modulus, divisor, "") and _congruent(residue, given, modulus, equal)
            )
        case ("ratio", sides), ("ratio", others):
            return _same_ratio(sides, others, equal)
        case (("ratio", sides), ("val", given, "", False)) | (
            ("val", given, "", False),
            ("ratio", sides),
        ):
            return len(sides) == 2 and equal(ex.divide(*sides), given, "")
        case ("time", hour, minute, half), ("time", other, minutes, noon):
            return (hour, minute) == (other, minutes) and (half == noon or "" in (half, noon))
        case ("val", *_), ("val", *_):
            return _same_quantity(reference, answer, equal)
    if _is_relation(reference) and _is_relation(answer) and _symbols(reference) != _symbols(answer):
        return False
    reference, answer = _as_set(reference), _as_set(answer)
    match reference, answer:
        case ("seq", brackets, items), ("seq", others, given):
            return _same_sequence(brackets, items, others, given, equal)
        case ("seq", "" | "{}", items), ("val", *_):
            return _same_members(items, (answer,), equal)
        case ("val", *_), ("seq", "" | "{}", items):
            return _same_members((reference,), items, equal)
        case ("op", sign, items), ("op", other, given) if sign == other:
            if sign == r"\setminus":
                return all(same(r, a, equal) for r, a in zip(items, given, strict=True))
            return _same_members(items, given, equal)
        case ("rel", signs, sides), ("rel", others, given):
            return _same_relation(signs, sides, others, given, equal)
        case ("rel", ("=",), (left, right)), ("named", name, ("val", value, "", False)):
            return equal(ex.subtract(left, right), _difference(name, value), "any")
        case ("named", name, ("val", value, "", False)), ("rel", ("=",), (left, right)):
            return equal(_difference(name, value), ex.subtract(left, right), "any")
        case ("builder", variable, domain, condition), ("builder", other, where, given):
            free = other == variable or variable not in _symbols(given)
            renamed = _renamed(given, other, variable)
            return free and domain == where and same(condition, renamed, equal)
    return False


def _names(items: tuple[Expr, ...]) -> str:
    return ",".join(item[1] if item[0] == "named" else "" for item in items)


def _values(items: tuple[Expr, ...]) -> Expr:
    return ("seq", "", tuple(item[2] if item[0] == "named" else item for item in items))


def _is_relation(value: Expr) -> bool:
    return value[0] == "rel" or (value[0] == "op" and any(map(_is_relation, value[2])))


def _difference(name: str, value: Expr) -> Expr:
    return ex.subtract(ex.sym(name), value)


def _is_letter(value: Expr, letter: str) -> bool:
    return value == ("val", ex.sym(letter), "", False)


def _same_quantity(reference: Expr, answer: Expr, equal: Equal) -> bool:
    _, wanted, unit, percent = reference
    _, given, other, sign = answer
    if unit != other and "" not in (unit, other):
        return False
    if percent == sign:
        if equal(wanted, given, ""):
            return True
        # 5 m as a product of variables is 5 m with the unit in text.
        letters = {part.rstrip("-0123456789") for part in (unit or other).split()}
        if "" in (unit, other) and letters and letters <= _symbols(given if unit else wanted):
            return equal(_with_unit(wanted, unit), _with_unit(given, other), "")
        return False
    number, share = (given, wanted) if percent else (wanted, given)
    return equal(number, share, "") or equal(number, ex.mul(share, ex.num(Fraction(1, 100))), "")


def _with_unit(node: Expr, unit: str) -> Expr:
    """A quantity as a product with the letters of its unit."""
    for part in unit.split():
        name = part.rstrip("-0123456789")
        node = ex.mul(node, ex.power(ex.sym(name), ex.num(int(part[len(name) :] or 1))))
    return node


def _same_ratio(one: tuple[Expr, ...], other: tuple[Expr, ...], equal: Equal) -> bool:
    return len(one) == len(other) and all(
        equal(ex.mul(one[0], b), ex.mul(other[0], a), "") for a, b in zip(one, other, strict=True)
    )


def _congruent(one: Expr, other: Expr, modulus: Expr, equal: Equal) -> bool:
    a, b, m = ex.number(one), ex.number(other), ex.number(modulus)
    if a is not None and b is not None and m:
        return (a - b) % m == 0
    return equal(one, other, "")


def _same_sequence(
    brackets: str, items: tuple[Expr, ...], others: str, given: tuple[Expr, ...], equal: Equal
) -> bool:
    unordered = ("", "{}")
    if brackets in unordered and others in unordered:
        names = [[i[1] for i in side if i[0] == "named"] for side in (items, given)]
        if all(len(set(found)) < 2 for found in names) or (names[0] and names[1]):
            return _same_members(items, given, equal)
        return _same_in_order(items, given, equal)
    if "{}" in (brackets, others) and 1 in (len(items), len(given)):  # {(1, 2)} and (1, 2)
        one, other = (("seq", *side) for side in ((brackets, items), (others, given)))
        return same(items[0], other, equal) if brackets == "{}" else same(one, given[0], equal)
    # A list without brackets may be a tuple; a set is not.
    if brackets == others or (sorted((brackets, others)) == ["", "()"]):
        return _same_in_order(items, given, equal)
    return False


def _same_in_order(items: tuple[Expr, ...], given: tuple[Expr, ...], equal: Equal) -> bool:
    return len(items) == len(given) and all(
        same(r, a, equal) for r, a in zip(items, given, strict=True)
    )


def _same_members(items: tuple[Expr, ...], given: tuple[Expr, ...], equal: Equal) -> bool:
    """The same members in any order, as often, or each once; an open end must be in both."""
    if (("dots",) in items) or (("dots",) in given):
        return _same_in_order(items, given, equal)
    if len(items) == len(given):
        left = list(given)
        for item in items:
            found = next((a for a in left if same(item, a, equal)), None)
            if found is None:
                return False
            left.remove(found)
        return True
    return all(any(same(r, a, equal) for a in given) for r in items) and all(
        any(same(r, a, equal) for r in items) for a in given
    )


def _same_relation(
    signs: tuple[str, ...],
    sides: tuple[Expr, ...],
    others: tuple[str, ...],
    given: tuple[Expr, ...],
    equal: Equal,
) -> bool:
    signs, sides = _ascending(signs, sides)
    others, given = _ascending(others, given)
    if signs != others:
        return False
    if len(signs) > 1:
        return all(equal(r, a, "") for r, a in zip(sides, given, strict=True))
    factor = "positive" if {"<", "<="} & set(signs) else "any"
    return equal(ex.subtract(*sides), ex.subtract(*given), factor)


def _ascending(
    signs: tuple[str, ...], sides: tuple[Expr, ...]
) -> tuple[tuple[str, ...], tuple[Expr, ...]]:
    """The relation read from the smaller to the larger side."""
    if all(sign in _FLIPPED for sign in signs):
        return tuple(_FLIPPED[sign] for sign in reversed(signs)), sides[::-1]
    return signs, sides


def _as_set(value: Expr) -> Expr:
    """An inequality of one variable, a set builder or a difference of sets as intervals, if plain."""
    match value:
        case ("rel", signs, sides):
            return _interval(*_ascending(signs, sides)) or value
        case ("builder", variable, "", condition):
            inside = _as_set(condition)
            named = _symbols(condition) == {variable}
            return inside if inside != condition and named else value
        case ("set", "R"):
            return REALS
        case ("op", r"\setminus", (whole, ("seq", "{}", points))) if _as_set(whole) == REALS:
            return _without_points([p[1] for p in points if p[0] == "val"], len(points)) or value
        case ("op", sign, items):
            sets = tuple(map(_as_set, items))
            return (_intersection(sets) if sign == r"\cap" else None) or ("op", sign, sets)
    return value


def _intersection(sets: tuple[Expr, ...]) -> Expr | None:
    """The interval in all of several intervals; None unless all ends are rational or infinite."""
    lows, highs = [], []
    for value in sets:
        if value[0] != "seq" or value[1] not in ("()", "(]", "[)", "[]") or len(value[2]) != 2:
            return None
        ends = [_finite(item[1]) if item[0] == "val" else None for item in value[2]]
        if ends[0] is None or ends[1] is None:
            return None
        lows.append((ends[0], value[1][0] == "(", value[2][0]))
        highs.append((ends[1], value[1][1] != ")", value[2][1]))
    low, high = max(lows, key=lambda end: end[:2]), min(highs, key=lambda end: end[:2])
    if low[0] >= high[0]:
        return None
    return ("seq", f"{'(' if low[1] else '['}{']' if high[1] else ')'}", (low[2], high[2]))


def _finite(node: Expr) -> Fraction | float | None:
    infinite = {INFINITY: math.inf, _MINUS_INFINITY: -math.inf}.get(node)
    return ex.number(node) if infinite is None else infinite


def _interval(signs: tuple[str, ...], sides: tuple[Expr, ...]) -> Expr | None:
    """The interval of a relation between a variable and one or two bounds; None for another one."""
    if len(sides) == 2 and (isolated := _isolated(sides)) is not None:
        factor, bound, variable = isolated
        sides = (variable, bound) if factor > 0 else (bound, variable)
    middle = [i for i, side in enumerate(sides) if side[0] in ("sym", "app")]
    if len(middle) != 1 or any(sides[middle[0]] in ex.walk(s) for s in _others(sides, middle[0])):
        return None
    at = middle[0]
    if signs == ("!=",):
        return _without_points([sides[1 - at]], 1)
    if set(signs) - {"<", "<="} or not (len(sides) == 2 or (len(sides) == 3 and at == 1)):
        return None
    low, high, left, right = _MINUS_INFINITY, INFINITY, "(", ")"
    if at > 0:
        low, left = sides[at - 1], "[" if signs[at - 1] == "<=" else "("
    if at < len(sides) - 1:
        high, right = sides[at + 1], "]" if signs[at] == "<=" else ")"
    return ("seq", left + right, (("val", low, "", False), ("val", high, "", False)))


def _isolated(sides: tuple[Expr, ...]) -> tuple[Fraction, Expr, Expr] | None:
    """Of a x + b on the left less the right side: a, -b/a and x; None unless a and b are rational."""
    difference = ex.subtract(*sides)
    terms = difference[1:] if difference[0] == "+" else (difference,)
    constant = sum((term[1] for term in terms if term[0] == "num"), Fraction(0))
    match [term for term in terms if term[0] != "num"]:
        case [("*", ("num", factor, _), ("sym", name))]:
            return factor, ex.num(-constant / factor), ex.sym(name)
        case [("sym", name)]:
            return Fraction(1), ex.num(-constant), ex.sym(name)
    return None


def _others(sides: tuple[Expr, ...], at: int) -> tuple[Expr, ...]:
    return sides[:at] + sides[at + 1 :]


def _without_points(points: list[Expr], count: int) -> Expr | None:
    """The real line without some rational points, as a union of open intervals."""
    numbers = sorted({p[1] for p in points if p[0] == "num"})
    if len(numbers) != count:
        return None
    ends = [_MINUS_INFINITY, *map(ex.num, numbers), INFINITY]
    pieces = pairwise(ends)
    return (
        "op",
        r"\cup",
        tuple(("seq", "()", (("val", a, "", False), ("val", b, "", False))) for a, b in pieces),
    )


def _symbols(value: Expr) -> set[str]:
    return {part[1] for part in ex.walk(value) if part[0] == "sym"}


def _renamed(value: Expr, name: str, new: str) -> Expr:
    if value == ("sym", name):
        return ex.sym(new)
    if ex.is_expr(value):
        return ex.replaced(value, name, ex.sym(new))
    return tuple(_renamed(part, name, new) if isinstance(part, tuple) else part for part in value)


def canonical(value: Expr) -> str:
    """One spelling of equal answers: no unit, percent sign, name or clause; lists sorted and once."""
    match value:
        case ("val", node, _, _):
            return _INFINITE.get(node) or ex.written(node)
        case ("named", _, inner) | ("qualified", _, inner) | ("choice", _, inner):
            return canonical(inner)
        case ("chain", sides):
            return canonical(sides[0])
        case ("words", text):
            return text
        case ("set", name):
            return canonical(REALS) if name == "R" else name
        case ("rel", signs, sides):
            if (interval := _as_set(value)) != value:
                return canonical(interval)
            signs, sides = _ascending(signs, sides)
            texts = [ex.written(side) for side in sides]
            return texts[0] + "".join(s + t for s, t in zip(signs, texts[1:], strict=True))
        case ("seq", brackets, items):
            texts = list(map(canonical, items))
            if brackets not in ("", "{}"):
                return f"{brackets[0]}{','.join(texts)}{brackets[1]}"
            texts = sorted(set(texts)) if "..." not in texts else texts
            return texts[0] if len(texts) == 1 else f"{{{','.join(texts)}}}"
        case ("op", sign, items):
            if (plain := _as_set(value)) != value:
                return canonical(plain)
            return sign.join(
                sorted(map(canonical, items)) if sign != r"\setminus" else map(canonical, items)
            )
        case ("mod", _, residue, modulus):
            a, m = ex.number(residue), ex.number(modulus)
            rest = ex.num(a % m) if a is not None and m else residue
            return f"{ex.written(rest)} mod {ex.written(modulus)}"
        case ("ratio", sides):
            return ":".join(ex.written(ex.divide(side, sides[-1])) for side in sides)
        case ("time", hour, minute, _):
            return f"{hour}:{minute}"
        case ("builder", variable, domain, condition):
            if (plain := _as_set(value)) != value:
                return canonical(plain)
            return f"{{x{domain}|{canonical(_renamed(condition, variable, 'x'))}}}"
    return "..."
