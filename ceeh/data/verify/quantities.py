"""Reads quantities: an expression with its sign of percent or its unit, or words that name a thing."""

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.terms import PLUS_MINUS, TermReader
from ceeh.data.verify.tokens import folded
from ceeh.data.verify.words import (
    LINKS,
    POWERS_AFTER,
    POWERS_BEFORE,
    SHORT_WORDS,
    is_mathematical,
    unit_text,
)

_ALL_REALS = ("all real numbers", "all reals", "all real", "real numbers")
_SCALES_OF_DEGREES = ("C", "F", "Celsius", "Fahrenheit", "celsius", "fahrenheit")


class QuantityReader(TermReader):
    """Reads the quantity at its place."""

    def quantity(self, *, more: bool = False) -> Expr:
        """An expression with its sign of percent or unit, or words; `more` follows another one."""
        minus = self.peek.text == "-" and self.ahead(1).text == r"\$"
        self.at += minus
        dollars = bool(self.accept(r"\$"))
        if (words := self.words()) is not None:
            return words
        node = self.sum()
        if not ex.is_expr(node):
            return node
        node = ex.negative(node) if minus else node
        percent = bool(self.accept("%", "percent", "pct", "percentage"))
        node, unit = _without_degrees(node)
        if unit and self.peek.text in _SCALES_OF_DEGREES:
            unit += self.take().text[0].upper()
        if not unit and not percent:
            unit = self.unit()
        if dollars:
            if unit or percent:
                raise UnreadError
            unit = "$"
        value = _both_signs(("val", node, unit, percent))
        if not more and unit and self.peek.kind == "number" and value[0] == "val":  # 5 ft 6 in
            return ("seq", "&&", (value, self.quantity(more=True)))
        return value

    def unit(self) -> str:
        """The unit at this place, in one spelling; "" if there is none."""
        powers: list[tuple[str, int]] = []
        sign, before = 1, 1
        while True:
            token = self.peek
            if token.text in ("/", "per") or (token.text == "*" and powers):
                if not self.unit_at(1, plain=bool(powers)):
                    break
                sign = 1 if token.text == "*" else -1
                self.take()
            if self.peek.text.lower() in POWERS_BEFORE and self.unit_at(1):
                before = POWERS_BEFORE[self.take().text.lower()]
            if not (named := self.unit_at(0, plain=bool(powers) and sign < 0)):
                break
            self.take()
            if named == "deg" and self.unit_at(0) in ("degC", "degF"):
                continue
            exponent = before * POWERS_AFTER.get(self.accept(*POWERS_AFTER), 1)
            if self.accept("^"):
                value = ex.number(self.script())
                if value is None or value.denominator > 1 or not 0 < abs(value) < 10:
                    raise UnreadError
                exponent = int(value)
            powers.append((named, sign * exponent))
            before = 1
        unit = unit_text(powers)
        if powers and not unit:
            raise UnreadError  # m/m
        return unit

    def words(self) -> Expr | None:
        """Words that are no numbers, functions or variables: ("words", text); None if there are none."""
        end = self.at
        for i, token in enumerate(self.tokens[self.at :], self.at):
            dash = i > self.at and token.text in ("-", "'") and self.tokens[i + 1 : i + 2]
            if token.text in ("and", "or", "for", "mod") or not (
                token.kind in ("word", "letter") or (dash and dash[0].kind == "word")
            ):
                break
            end = i + 1
        tokens = self.tokens[self.at : end]
        if not any(t.kind == "word" and not is_mathematical(t.text) for t in tokens):
            return None
        first = tokens[0]
        if len(tokens) == 1 and len(first.text) < 4 and first.text.lower() not in SHORT_WORDS:
            label = first.text.isupper() and self.ahead(1).text in ("", *LINKS)
            if not label and first.font != "text":
                return None  # a product of variables
        if first.kind == "letter" and not first.font and first.text not in ("a", "A", "I"):
            return None
        if first.kind == "word" and is_mathematical(first.text):
            return None
        self.at = end
        text = " ".join(folded(t.text) for t in tokens)
        return ("set", "R") if text in _ALL_REALS else ("words", text)


def _without_degrees(node: Expr) -> tuple[Expr, str]:
    """Degree signs outside of functions are the unit of the whole."""
    if node[0] == "deg":
        return node[1], "deg"
    if node[0] not in ("+", "*"):
        return node, ""
    parts = [_without_degrees(part) for part in node[1:]]
    unit = max(unit for _, unit in parts)
    return ex.rebuilt((node[0], *(part for part, _ in parts)), lambda part: part), unit


def _both_signs(value: Expr) -> Expr:
    r"""The two values of an expression with one \pm or with \pm and \mp."""
    signs = sum(part == PLUS_MINUS for part in ex.walk(value[1]))
    if not signs:
        return value
    if signs > 1:
        raise UnreadError
    both = (ex.replaced(value[1], PLUS_MINUS[1], sign) for sign in (ex.ONE, ex.MINUS_ONE))
    return ("seq", "±", tuple(("val", node, *value[2:]) for node in both))
