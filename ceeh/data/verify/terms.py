"""Reads expressions: sums, products, powers, numbers, letters and brackets."""

from fractions import Fraction

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.macros import ACCENTS, SHAPES, MacroReader, symbol
from ceeh.data.verify.tokens import Token
from ceeh.data.verify.units import POWERS_BEFORE
from ceeh.data.verify.words import (
    FRACTIONS,
    FUNCTIONS,
    NUMBERS,
    SCALES,
    STOPS,
    SYMBOLS,
    is_mathematical,
)

MAX_DEPTH = 50
MAX_DIGITS = 100
PLUS_MINUS = r"\pm"

_CLOSING = {
    "(": (")", "]"),
    "[": ("]", ")"),
    r"\{": (r"\}",),
    "{": ("}",),
    r"\langle": (r"\rangle",),
}
_FUNCTION_LETTERS = ("f", "g", "F", "G", "P", "Q", r"\phi", r"\Gamma")
_OPENING = (
    "[",
    "{",
    r"\frac",
    r"\sqrt",
    r"\binom",
    r"\begin",
    r"\infty",
    r"\pi",
    r"\lfloor",
    r"\lceil",
)


class TermReader(MacroReader):
    def signs(self) -> Expr | None:
        r"""The product of the signs here: 1, -1 or \pm; None without one."""
        found = None
        while True:
            text = self.peek.text
            if text not in ("+", "-", r"\pm", r"\mp", "negative", "minus", "positive"):
                return found
            self.take()
            sign = {"+": ex.ONE, "positive": ex.ONE, r"\pm": ex.sym(PLUS_MINUS)}.get(text)
            if text == r"\mp":
                sign = ex.negative(ex.sym(PLUS_MINUS))
            found = ex.mul(found or ex.ONE, sign or ex.MINUS_ONE)

    def sum(self) -> Expr:
        sign = self.signs()
        first = self.product()
        if sign is not None:
            first = ex.mul(sign, self.scalar(first))
        if sign is None and not ex.is_expr(first):
            return first
        terms = [first]
        while (sign := self.signs()) is not None:
            terms.append(ex.mul(sign, self.scalar(self.product())))
        return first if len(terms) == 1 else ex.add(*map(self.scalar, terms))

    def product(self) -> Expr:
        whole = self.peek if self.peek.kind == "number" and self.peek.text.isdigit() else None
        start = self.at
        factors = [self.power()]
        if whole is not None and self.at == start + 1 and (part := self.mixed_part()) is not None:
            factors = [ex.add(factors[0], part)]
        while True:
            token = self.peek
            if token.text in ("*", "/") and not self.unit_at(1):
                self.take()
                factor = self.signed_power()
                factors.append(factor if token.text == "*" else ex.power(factor, ex.MINUS_ONE))
            elif self._is_times_sign():
                self.take()
                factors.append(self.power())
            elif self._begins_factor(token):
                factors.append(self.power())
            else:
                break
        return factors[0] if len(factors) == 1 else ex.mul(*map(self.scalar, factors))

    def signed_power(self) -> Expr:
        sign = self.signs()
        return ex.mul(sign or ex.ONE, self.scalar(self.power()))

    def mixed_part(self) -> Expr | None:
        r"""The fraction of 1\frac{1}{2} or 1 1/2."""
        start = self.at
        if self.peek.text == r"\frac":
            part = self.power()
            if part[0] == "num" and 0 < part[1] < 1 and not part[2]:
                return part
            if part[0] == "num":
                raise UnreadError
            self.at = start
        elif self.peek.kind == "number" and self.ahead().text == "/":
            above, _, below = self.take(), self.take(), self.take()
            whole = above.text.isdigit() and below.text.isdigit() and above.text[0] != "0"
            if whole and int(above.text) < int(below.text):
                return ex.num(Fraction(int(above.text), int(below.text)))
            raise UnreadError
        return None

    def _is_times_sign(self) -> bool:
        """The letter in 1.2 x 10^3."""
        return (
            self.peek.text == "x"
            and self.tokens[self.at - 1].kind == "number"
            and (self.ahead().text, self.ahead(2).text) == ("10", "^")
        )

    def _begins_factor(self, token: Token) -> bool:
        if token.kind == "number":
            raise UnreadError  # two numbers side by side
        if self.tokens[self.at - 1].text == r"^\circ" and token.text in ("C", "F"):
            return False
        if token.kind in ("letter", "word"):
            return not (token.text in STOPS or token.text in POWERS_BEFORE or self.unit_at(0))
        if token.text in ("|", r"\l|"):
            return not self.bars or token.text == r"\l|"
        if token.text == "(":
            return self.ahead().text != "mod"
        return token.text in (
            "[",
            "{",
            r"\frac",
            r"\sqrt",
            r"\binom",
            r"\begin",
            r"\infty",
            r"\pi",
        ) or (
            token.text in (r"\lfloor", r"\lceil", *ACCENTS, *SHAPES)
            or (token.text[:1] == "\\" and token.text[1:] in FUNCTIONS)
        )

    def power(self) -> Expr:
        node = self.primary()
        if self.accept("!"):
            node = ("fn", "factorial", self.scalar(node))
        if self.accept(r"^\circ"):
            node = ("deg", self.scalar(node))
        if not self.accept("^"):
            return node
        if node[0] == "set":
            return ("set", f"{node[1]}^{self.raw_script()}")
        node = ex.power(self.scalar(node), self.script())
        if self.peek.text in ("^", "_"):
            raise UnreadError
        if self.accept("!"):
            node = ("fn", "factorial", node)
        return ("deg", node) if self.accept(r"^\circ") else node

    def script(self) -> Expr:
        """An exponent or subscript: a group, a signed number as models write it, or one factor."""
        sign = self.signs()
        if self.peek.text == "{":
            self.take()
            node = self.scalar(self.sum())
            self.expect("}")
        else:
            node = self.scalar(self.primary(script=True))
        return ex.mul(sign, node) if sign is not None else node

    def index(self) -> str:
        """A subscript in one spelling: an expression, or text where it has words or commas."""
        start, depth, bars, tokens = self.at, self.depth, self.bars, self.tokens
        raw = self.raw_script()
        if raw.lower() in NUMBERS:
            return str(NUMBERS[raw.lower()])
        if any(t.kind == "word" for t in tokens[start : self.at]):
            return raw
        end, self.at = self.at, start
        try:
            index = ex.written(self.script())
        except UnreadError:
            index = ""
        if self.at != end:
            index, self.at, self.depth, self.bars, self.tokens = raw, end, depth, bars, tokens
        return index

    def primary(self, *, script: bool = False) -> Expr:
        """One factor. `script` takes no more than one token or group, as an exponent does."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadError
        node = self._primary(script)
        self.depth -= 1
        return node

    def _primary(self, script: bool) -> Expr:
        token = self.take()
        text = token.text
        if token.kind == "number":
            return self.number(token, script)
        if token.kind == "letter" or text == r"\pi":
            return self.letter(token, script)
        if token.kind == "word":
            if script and not is_mathematical(token.text):
                raise UnreadError
            return self.word(token)
        if token.kind == "set":
            return ("set", text[-1])
        if text in _CLOSING:
            return self.group(text)
        if text in ("|", r"\l|"):
            self.bars += 1
            node = self.scalar(self.sum())
            self.expect("|" if text == "|" else r"\r|")
            self.bars -= 1
            return ("fn", "abs", node)
        return self.macro(text)

    def number(self, token: Token, script: bool) -> Expr:
        text = token.text
        if len(text) > MAX_DIGITS:
            raise UnreadError
        if "." in text and self.peek.text in (r"\overline", r"\bar", r"\dot"):
            again = self.ahead().text if self.ahead().text != "{" else self.ahead(2).text
            self.take()
            self.raw_script()
            before, _, once = text.partition(".")
            if not again.isdigit() or "e" in text:
                raise UnreadError
            difference = int(before + once + again) - int(before + once or "0")
            return ex.num(Fraction(difference, (10 ** len(again) - 1) * 10 ** len(once)))
        if not script and self.accept("_"):
            return ex.sym(f"{text} base {self.index()}")
        return ex.num(Fraction(text), decimal="." in text)

    def letter(self, token: Token, script: bool) -> Expr:
        name = token.text
        while self.accept("'"):
            name += "'"
        if not script and self.accept("_"):
            name += f"_{self.index()}"
            while self.accept("'"):
                name += "'"
        if script:
            return symbol(name)
        if name[:1] in _FUNCTION_LETTERS or name in _FUNCTION_LETTERS or name[-1] == "'":
            start = self.at
            if self.accept("^"):
                name += f"^{self.index()}"
            if self.peek.text == "(" and not self.peek.spaced:
                self.take()
                return ("app", name, *self.arguments())
            self.at, name = start, name.partition("^")[0]
        return symbol(name)

    def word(self, token: Token) -> Expr:
        text = token.text
        if (name := FUNCTIONS.get(text)) is not None:
            return self.function(name)
        if text == "sqrt":
            return self.root()
        if text in SYMBOLS:
            return self.letter(Token("letter", SYMBOLS[text]), False)
        if text in ("infinity", "inf", "oo"):
            return ex.INFINITY
        if (
            len(text) == 2
            and text[0] == "d"
            and self.peek.text == "/"
            and self.ahead().text[:1] == "d"
        ):
            self.at -= 1
            if derivative := self.derivative():
                return derivative
            self.at += 1
        lower = text.lower()
        if lower in SCALES:
            return ex.num(SCALES[lower])
        if lower in FRACTIONS and self.at > 1:
            before = self.tokens[self.at - 2]
            if before.kind == "number" or before.text.lower() in NUMBERS:
                return ex.num(FRACTIONS[lower])
            raise UnreadError
        if lower in NUMBERS:
            value = NUMBERS[lower]
            if (
                value >= 20
                and self.peek.text == "-"
                and NUMBERS.get(self.ahead().text.lower(), 10) < 10
            ):
                self.take()
            if value >= 20 and NUMBERS.get(self.peek.text.lower(), 10) < 10:
                value += NUMBERS[self.take().text.lower()]
            if self.peek.text == "-" and self.ahead().text.lower() in FRACTIONS:  # two-thirds
                self.take()
                return ex.num(value * FRACTIONS[self.take().text.lower()])
            return ex.num(value)
        if token.font == "text" or len(text) > 3:
            raise UnreadError
        letters = [Token("letter", letter, "name" * text.isupper()) for letter in text]
        self.tokens = [*self.tokens[: self.at - 1], *letters, *self.tokens[self.at :]]
        self.at -= 1
        return self.power()

    def group(self, opening: str) -> Expr:
        """What brackets enclose: an expression, a tuple, an interval, a set."""
        bars, self.bars = self.bars, 0
        closing = _CLOSING[opening]
        if opening == r"\{" and self.accept(r"\}"):
            return ("seq", "{}", ())
        if opening == r"\{" and (built := self.builder()) is not None:
            return built
        brackets = "{}" if "{" in opening else ""
        value = self.items(brackets="" if opening == "{" else brackets or "()")
        closed = self.expect(*closing)
        self.bars = bars
        if value[0] == "seq" and value[1] == "()":
            left = "(" if opening == r"\langle" else opening
            return ("seq", left + (")" if closed == r"\rangle" else closed), value[2])
        if value[0] == "val" and not value[2] and not value[3] and brackets != "{}":
            if opening + closed in ("()", "[]", "{}"):
                if self.peek.text == "_" and opening == "(":
                    self.take()
                    return ex.sym(f"{ex.written(value[1])} base {self.index()}")
                return value[1]
            raise UnreadError
        if opening + closed not in ("()", r"\{\}", "{}"):
            raise UnreadError
        return value

    def builder(self) -> Expr | None:
        r"""\{x \mid 0 < x < 1\} after its first bracket; None if it is another set."""
        start = self.at
        variable = self.take()
        domain = ""
        if self.accept(r"\in"):
            domain = self.take().text[-1] if self.peek.kind == "set" else "?"
        if variable.kind != "letter" or not self.accept(r"\mid", "|", ":") or domain == "?":
            self.at = start
            return None
        condition = self.items()
        self.expect(r"\}")
        return ("builder", variable.text, "" if domain == "R" else domain, condition)
