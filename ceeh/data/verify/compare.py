"""Whether two values are equal, where `equal` decides about expressions."""

from collections.abc import Callable
from fractions import Fraction

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, value_of
from ceeh.data.verify.intervals import INFINITE_VALUES, as_set, ascending

Equal = Callable[[Expr, Expr, str], bool]
"""Whether two expressions are equal, "", or proportional: "any" factor, or a "positive" one."""

_ORDER = {"qualified": 0, "choice": 1, "named": 2, "chain": 3, "val": 5}
"""Of two kinds of values, the first one is taken apart first; all others are 4."""
_HUNDREDTH = ex.num(Fraction(1, 100))


class UndecidedError(Exception):
    """The two expressions need computer algebra."""


def exactly(one: Expr, other: Expr, factor: str = "") -> bool:
    """Whether two expressions are equal, where that is plain. Raises UndecidedError."""
    if one == other:
        return True
    a, b = ex.number(one), ex.number(other)
    if not factor and a is not None and b is not None:
        return a == b
    infinite = [e in INFINITE_VALUES for e in (one, other)]
    if any(infinite) and (all(infinite) or a is not None or b is not None):
        return False
    raise UndecidedError


def same(reference: Expr, answer: Expr, equal: Equal) -> bool:
    """Whether the answer is correct."""
    if reference == answer:
        return True
    if _ORDER.get(answer[0], 4) < _ORDER.get(reference[0], 4):
        return same(answer, reference, lambda one, other, factor: equal(other, one, factor))
    match reference, answer:
        case ("qualified" | "choice", label, value), (kind, other, given) if kind == reference[0]:
            return label == other and same(value, given, equal)
        case ("qualified", _, value), _:
            return same(value, answer, equal)
        case ("choice", letter, value), _:
            return answer == value_of(ex.sym(letter)) or same(value, answer, equal)
        case ("named", name, value), ("named", other, given):
            if name == other:
                return same(value, given, equal)
            one, two = _equation(reference), _equation(answer)
            swapped = other in ex.symbols(value) and name in ex.symbols(given)  # y = -x, x = -y
            return one[0] == two[0] == "rel" and swapped and _same_relation(one, two, equal)
        case ("named", name, value), ("rel", *_) if value[0] == "seq":
            return ex.variables(answer) == {name} and same(value, answer, equal)
        case ("named", name, value), ("seq", _, items) if any(i[0] == "named" for i in items):
            names = ",".join(item[1] if item[0] == "named" else "" for item in items)
            values = tuple(item[2] if item[0] == "named" else item for item in items)
            return name == names and same(value, ("seq", "", values), equal)
        case ("named", _, value), (kind, *_) if kind != "rel":
            return same(value, answer, equal)
        case ("chain", sides), _:
            return all(same(side, answer, equal) for side in sides)
        case ("mod", name, residue, modulus), ("mod", other, given, divisor):
            congruent = _agree(name, other) and equal(modulus, divisor, "")
            return congruent and _congruent(residue, given, modulus, equal)
        case ("ratio", (first, *rest)), ("ratio", (other, *others)):
            products = [
                (ex.mul(first, b), ex.mul(other, a)) for a, b in zip(rest, others, strict=False)
            ]
            return len(rest) == len(others) and all(equal(a, b, "") for a, b in products)
        case ("ratio", sides), ("val", given, "", False):
            return len(sides) == 2 and equal(ex.divide(*sides), given, "")
        case ("time", hour, minute, half), ("time", other, minutes, noon):
            return (hour, minute) == (other, minutes) and _agree(half, noon)
        case ("val", *_), ("val", *_):
            return _same_quantity(reference, answer, equal)
    if (
        _is_relation(reference)
        and _is_relation(answer)
        and ex.variables(reference) != ex.variables(answer)
    ):
        return False
    reference, answer = _equation(reference), _equation(answer)
    relations = reference[0] == answer[0] == "rel"
    if relations and _same_relation(reference, answer, equal):
        return True
    reference, answer = as_set(reference), as_set(answer)
    match reference, answer:
        case ("seq", *_), ("seq", *_):
            return _same_sequence(reference, answer, equal)
        case ("seq", "" | "{}", items), ("val", *_):
            return _same_members(items, (answer,), equal)
        case ("op", sign, items), ("op", other, given) if sign == other:
            ordered = sign == r"\setminus"
            return (_same_in_order if ordered else _same_members)(items, given, equal)
        case ("builder", variable, domain, condition), ("builder", other, where, given):
            free = other == variable or variable not in ex.variables(given)
            renamed = ex.renamed(given, other, variable)
            return free and domain == where and same(condition, renamed, equal)
    return False


def _agree(one: str, other: str) -> bool:
    """Whether two names or units are the same, or one is left out."""
    return one == other or not one or not other


def _equation(value: Expr) -> Expr:
    """x = 5 as a relation, where it was read as a name and a value."""
    match value:
        case ("named", name, ("val", node, "", False)):
            return ("rel", ("=",), (ex.sym(name), node))
    return value


def _is_relation(value: Expr) -> bool:
    return value[0] == "rel" or (value[0] == "op" and any(map(_is_relation, value[2])))


def _same_quantity(reference: Expr, answer: Expr, equal: Equal) -> bool:
    _, wanted, unit, percent = reference
    _, given, other, sign = answer
    if not _agree(unit, other):
        return False
    if percent != sign:
        number, share = (given, wanted) if percent else (wanted, given)
        return equal(number, share, "") or equal(number, ex.mul(share, _HUNDREDTH), "")
    if equal(wanted, given, ""):
        return True
    # 5 m as a product of variables is 5 m with the unit in text.
    letters = {part.rstrip("-0123456789") for part in (unit or other).split()}
    if "" in (unit, other) and letters and letters <= ex.variables(given if unit else wanted):
        return equal(_with_unit(wanted, unit), _with_unit(given, other), "")
    return False


def _with_unit(node: Expr, unit: str) -> Expr:
    """A quantity as a product with the letters of its unit."""
    for part in unit.split():
        name = part.rstrip("-0123456789")
        node = ex.mul(node, ex.power(ex.sym(name), ex.num(int(part[len(name) :] or 1))))
    return node


def _congruent(one: Expr, other: Expr, modulus: Expr, equal: Equal) -> bool:
    a, b, m = ex.number(one), ex.number(other), ex.number(modulus)
    if a is not None and b is not None and m:
        return (a - b) % m == 0
    return equal(one, other, "")


def _same_sequence(reference: Expr, answer: Expr, equal: Equal) -> bool:
    _, brackets, items = reference
    _, others, given = answer
    if {brackets, others} <= {"", "{}"}:
        names = [[i[1] for i in side if i[0] == "named"] for side in (items, given)]
        ordered = any(len(set(found)) > 1 for found in names) and not all(names)
        return (_same_in_order if ordered else _same_members)(items, given, equal)
    if "{}" in (brackets, others) and 1 in (len(items), len(given)):  # {(1, 2)} and (1, 2)
        one, other = (items[0], answer) if brackets == "{}" else (reference, given[0])
        return same(one, other, equal)
    # A list without brackets may be a tuple; a set is not.
    alike = brackets == others or {brackets, others} == {"", "()"}
    return alike and _same_in_order(items, given, equal)


def _same_in_order(items: tuple[Expr, ...], given: tuple[Expr, ...], equal: Equal) -> bool:
    return len(items) == len(given) and all(
        same(r, a, equal) for r, a in zip(items, given, strict=True)
    )


def _same_members(items: tuple[Expr, ...], given: tuple[Expr, ...], equal: Equal) -> bool:
    """The same members in any order, as often, or each once; an open end must be in both."""
    if ("dots",) in (*items, *given):
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


def _same_relation(reference: Expr, answer: Expr, equal: Equal) -> bool:
    (signs, sides), (others, given) = ascending(reference), ascending(answer)
    if signs != others:
        return False
    if len(signs) > 1:
        return all(equal(r, a, "") for r, a in zip(sides, given, strict=True))
    factor = "positive" if {"<", "<="} & set(signs) else "any"
    return equal(ex.subtract(*sides), ex.subtract(*given), factor)
