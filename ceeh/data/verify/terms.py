"""Reads expressions: sums, products and powers of factors."""

from fractions import Fraction

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.factors import FactorReader

PLUS_MINUS = ex.sym(r"\pm")

_SIGNS = {
    **dict.fromkeys(("+", "positive"), ex.ONE),
    **dict.fromkeys(("-", "negative", "minus"), ex.MINUS_ONE),
    **{r"\pm": PLUS_MINUS, r"\mp": ex.negative(PLUS_MINUS)},
}


class TermReader(FactorReader):
    """Reads the expression at its place."""

    def signs(self) -> Expr | None:
        r"""The product of the signs here: 1, -1 or \pm; None without one."""
        found = None
        while (sign := _SIGNS.get(self.peek.text)) is not None:
            self.take()
            found = ex.mul(found or ex.ONE, sign)
        return found

    def sum(self) -> Expr:
        sign = self.signs()
        first = self.product()
        if sign is not None:
            first = ex.mul(sign, self.scalar(first))
        elif not ex.is_expr(first):
            return first
        terms = [first]
        while (sign := self.signs()) is not None:
            terms.append(ex.mul(sign, self.scalar(self.product())))
        return first if len(terms) == 1 else ex.add(*terms)

    def product(self) -> Expr:
        start, whole = self.at, self.peek.kind == "number" and self.peek.text.isdigit()
        factors = [self.power()]
        if whole and self.at == start + 1 and (part := self._mixed_part()) is not None:
            factors = [ex.add(factors[0], part)]
        while True:
            token = self.peek
            if token.text in ("*", "/") and not self.unit_at(1):
                self.take()
                sign = self.signs() or ex.ONE
                factor = ex.mul(sign, self.scalar(self.power()))
                factors.append(factor if token.text == "*" else ex.power(factor, ex.MINUS_ONE))
            elif self._is_times_sign():
                self.take()
                factors.append(self.power())
            elif self.begins_factor(token):
                factors.append(self.power())
            else:
                return factors[0] if len(factors) == 1 else ex.mul(*map(self.scalar, factors))

    def _mixed_part(self) -> Expr | None:
        r"""The fraction of 1\frac{1}{2} or 1 1/2."""
        start = self.at
        if self.peek.text == r"\frac":
            part = self.power()
            if part[0] == "num" and 0 < part[1] < 1 and not part[2]:
                return part
            if part[0] == "num":
                raise UnreadError
            self.at = start
        elif self.peek.kind == "number" and self.ahead(1).text == "/":
            above, _, below = (self.take().text for _ in range(3))
            whole = above.isdigit() and below.isdigit() and above[0] != "0"
            if whole and int(above) < int(below):
                return ex.num(Fraction(int(above), int(below)))
            raise UnreadError
        return None

    def _is_times_sign(self) -> bool:
        """The letter in 1.2 x 10^3."""
        return (
            self.peek.text == "x"
            and self.ahead(-1).kind == "number"
            and (self.ahead(1).text, self.ahead(2).text) == ("10", "^")
        )

    def power(self) -> Expr:
        node = self._with_suffix(self.primary())
        if not self.accept("^"):
            return node
        if node[0] == "set":
            return ("set", f"{node[1]}^{self.raw_script()}")
        node = ex.power(self.scalar(node), self.script())
        if self.peek.text in ("^", "_"):
            raise UnreadError
        return self._with_suffix(node)

    def script(self) -> Expr:
        """An exponent or subscript: a group, a signed number as models write it, or one factor."""
        sign = self.signs()
        return self.braced() if sign is None else ex.mul(sign, self.braced())

    def _with_suffix(self, node: Expr) -> Expr:
        """`node` with the factorial and degree signs after it."""
        if self.accept("!"):
            node = ("fn", "factorial", self.scalar(node))
        return ("deg", self.scalar(node)) if self.accept(r"^\circ") else node
