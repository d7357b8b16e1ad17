"""Expressions as nested tuples in a normal form, so that most equal ones are the same tuple.

("num", Fraction, written as a decimal), ("sym", name), ("const", "pi" | "e" | "i" | "oo"),
("+", ...), ("*", ...), ("^", base, exponent), ("fn", name, ...) for known functions,
("app", name, ...) for others, ("deg", x) for degrees, ("matrix", rows).
Sums and products are flat and sorted and rational constants are folded, if small enough.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

Expr = tuple[Any, ...]

MAX_FOLDED_BITS = 4096


class UnreadError(Exception):
    """The answer cannot be read as mathematics: only equal text is equal to it."""


def num(value: Fraction | int, *, decimal: bool = False) -> Expr:
    return ("num", Fraction(value), decimal)


def sym(name: str) -> Expr:
    return ("sym", name)


def value_of(node: Expr) -> Expr:
    """An expression as a value without unit."""
    return ("val", node, "", False)


ONE, MINUS_ONE = num(1), num(-1)
PI, EULER, IMAGINARY, INFINITY = (("const", name) for name in ("pi", "e", "i", "oo"))


def is_expr(node: Expr) -> bool:
    return node[0] in _HEADS


_HEADS = ("num", "sym", "const", "+", "*", "^", "fn", "app", "deg", "matrix")


def number(node: Expr) -> Fraction | None:
    return node[1] if node[0] == "num" else None


def add(*terms: Expr) -> Expr:
    return _folded("+", Fraction(0), terms)


def mul(*factors: Expr) -> Expr:
    return _folded("*", Fraction(1), factors)


def negative(node: Expr) -> Expr:
    return mul(MINUS_ONE, node)


def subtract(one: Expr, other: Expr) -> Expr:
    return add(one, negative(other))


def divide(above: Expr, below: Expr) -> Expr:
    return mul(above, power(below, MINUS_ONE))


def power(base: Expr, exponent: Expr) -> Expr:
    """base ** exponent, folded where exact, small and defined. Raises UnreadError for 1/0."""
    b, e = number(base), number(exponent)
    if e == 1:
        return base
    if b == 0 and e is not None and e <= 0:
        raise UnreadError
    if b is not None and e is not None and (folded := _folded_power(b, e)) is not None:
        return num(folded, decimal=base[2])
    if e == -1 and base[0] == "^" and number(base[2]) is not None:
        return power(base[1], negative(base[2]))
    if e == -1 and base[0] == "*" and not has_matrix(base):
        return mul(*(power(factor, MINUS_ONE) for factor in base[1:]))
    if b is not None and b < 0 and e is not None and e.denominator % 2 and e.denominator > 1:
        return mul(num(-1 if e.numerator % 2 else 1), power(num(-b), exponent))  # a real odd root
    return ("^", base, exponent)


def _folded_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent.numerator) > MAX_FOLDED_BITS:
        return None
    if exponent.denominator == 1:
        return base**exponent.numerator
    roots = [_root(part, exponent.denominator) for part in (base.numerator, base.denominator)]
    if None in roots:
        return None
    return Fraction(*roots) ** exponent.numerator  # type: ignore[arg-type]


def _root(value: int, degree: int) -> int | None:
    """The integer root of a perfect power; None otherwise."""
    if value < 0:
        root = _root(-value, degree) if degree % 2 else None
        return None if root is None else -root
    if degree > value.bit_length() + 1:
        return value if value in (0, 1) else None
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < value else (low, middle)
    return low if low**degree == value else None


def _folded(head: str, neutral: Fraction, parts: tuple[Expr, ...]) -> Expr:
    constant, decimal, others = neutral, False, []
    for part in parts:
        for item in part[1:] if part[0] == head else (part,):
            if item[0] == "num":
                constant = constant + item[1] if head == "+" else constant * item[1]
                decimal = decimal or item[2]
            else:
                others.append(item)
    if constant == 0 and head == "*" and not any(map(has_matrix, others)):
        others = []
    if not any(map(has_matrix, others)):
        others.sort(key=repr)
    if constant != neutral or not others:
        others.insert(0, num(constant, decimal=decimal))
    return others[0] if len(others) == 1 else (head, *others)


def has_matrix(node: Expr) -> bool:
    return any(part[0] == "matrix" for part in walk(node))


def walk(node: Expr) -> Iterator[Expr]:
    """The node and everything below it."""
    yield node
    for part in node[1:]:
        if isinstance(part, tuple):
            if part and isinstance(part[0], str):
                yield from walk(part)
            else:
                for cell in part:
                    yield from walk(cell)


def rebuilt(node: Expr, change: Any) -> Expr:
    """`node` with `change` applied to its parts, in normal form."""
    head, *parts = node
    if head in ("num", "sym", "const"):
        return node
    if head == "matrix":
        return (head, *(tuple(map(change, row)) for row in parts))
    if head in ("fn", "app"):
        return (head, parts[0], *map(change, parts[1:]))
    build = {"+": add, "*": mul, "^": power}.get(head)
    return build(*map(change, parts)) if build else (head, *map(change, parts))


def replaced(node: Expr, name: str, value: Expr) -> Expr:
    """`node` with `value` for the symbol `name`."""
    if node == ("sym", name):
        return value
    return rebuilt(node, lambda part: replaced(part, name, value))


def symbols(node: Expr) -> set[str]:
    return {part[1] for part in walk(node) if part[0] in ("sym", "app")}


def variables(value: Expr) -> set[str]:
    """The symbols of a value, without the names of functions."""
    return {part[1] for part in walk(value) if part[0] == "sym"}


def renamed(value: Expr, name: str, new: str) -> Expr:
    """A value with the symbol `new` for the symbol `name`."""
    if is_expr(value):
        return replaced(value, name, sym(new))
    return tuple(renamed(part, name, new) if isinstance(part, tuple) else part for part in value)


def written(node: Expr) -> str:
    """One spelling of an expression, for votes and names."""
    head, *parts = node
    match head:
        case "num":
            return str(parts[0])
        case "sym" | "const":
            return parts[0]
        case "+":
            return "+".join(map(written, parts)).replace("+-", "-")
        case "*":
            return "*".join(f"({written(p)})" if p[0] == "+" else written(p) for p in parts)
        case "^":
            base, exponent = (written(p) if _atomic(p) else f"({written(p)})" for p in parts)
            return f"{base}^{exponent}"
        case "fn" | "app":
            return f"{parts[0]}({','.join(map(written, parts[1:]))})"
        case "deg":
            return f"{written(parts[0])}deg"
    return f"matrix[{';'.join(','.join(map(written, row)) for row in parts)}]"


def _atomic(node: Expr) -> bool:
    return node[0] in ("sym", "const", "fn", "app") or (
        node[0] == "num" and node[1] >= 0 and node[1].denominator == 1
    )
