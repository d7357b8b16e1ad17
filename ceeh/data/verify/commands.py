"""Reads commands and functions with their arguments: fractions, roots, accents, derivatives, matrices."""

import re
from abc import ABC, abstractmethod

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.token_reader import TokenReader
from ceeh.data.verify.tokens import Token
from ceeh.data.verify.words import FUNCTIONS, NUMBERS

_CONSTANTS = {"e": ex.EULER, "i": ex.IMAGINARY, r"\pi": ex.PI}
_ACCENT_NAMES = (
    r"\overline \bar \vec \hat \widehat \tilde \underline \overrightarrow \dot \ddot \widetilde"
)
ACCENTS = frozenset(_ACCENT_NAMES.split())
SHAPES = (r"\angle", r"\triangle", r"\measuredangle")
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array")


def symbol(name: str) -> Expr:
    """A letter: a constant or a symbol."""
    return _CONSTANTS.get(name) or ex.sym(name)


class CommandReader(TokenReader, ABC):
    """Reads a command whose name has been taken; the layers above read what its arguments hold."""

    @abstractmethod
    def sum(self) -> Expr:
        """The expression here."""

    @abstractmethod
    def power(self) -> Expr:
        """The factor here with its exponent."""

    @abstractmethod
    def script(self) -> Expr:
        """An exponent or subscript."""

    @abstractmethod
    def primary(self, *, script: bool = False) -> Expr:
        """One factor. `script` takes no more than one token or group, as an exponent does."""

    def scalar(self, node: Expr) -> Expr:
        if not ex.is_expr(node):
            raise UnreadError
        return node

    def enclosed(self, closing: str) -> Expr:
        """An expression and the bracket that closes it."""
        node = self.scalar(self.sum())
        self.expect(closing)
        return node

    def argument(self) -> Expr:
        r"""The argument of \frac or \sqrt: a group, one digit or one token."""
        text = self.peek.text
        if self.peek.kind == "number" and len(text) > 1:
            if not text.isdigit():
                raise UnreadError
            self.replace([Token("number", text[0]), Token("number", text[1:])])
        return self.braced()

    def braced(self) -> Expr:
        return self.enclosed("}") if self.accept("{") else self.scalar(self.primary(script=True))

    def arguments(self) -> list[Expr]:
        found = [self.scalar(self.sum())]
        while self.accept(",", ";"):
            found.append(self.scalar(self.sum()))
        self.expect(")")
        return found

    def index(self) -> str:
        """A subscript as text, with digits for a number word."""
        raw = re.sub(r"(?<!\d) | (?!\d)", "", self.raw_script())  # 1 2 is not 12
        return str(NUMBERS.get(raw.lower(), raw))

    def command(self, text: str) -> Expr:
        """The command `text`, which has been taken, with its arguments."""
        match text:
            case r"\frac":
                return self.derivative() or ex.divide(self.argument(), self.argument())
            case r"\binom":
                return ("fn", "binomial", self.argument(), self.argument())
            case r"\sqrt":
                return self.root()
            case r"\infty":
                return ex.INFINITY
            case r"\emptyset":
                return ("seq", "{}", ())
            case r"\lfloor":
                return ("fn", "floor", self.enclosed(r"\rfloor"))
            case r"\lceil":
                return ("fn", "ceiling", self.enclosed(r"\rceil"))
            case r"\begin":
                return self._matrix()
        if text in ACCENTS:
            content = self.raw_script()
            return symbol(content if content in ("i", "j", "k") else f"{text} {content}")
        if text in SHAPES:
            return ex.sym(f"{text} {self.take().text}")
        if text in FUNCTIONS:
            return self.function(FUNCTIONS[text])
        raise UnreadError

    def derivative(self) -> Expr | None:
        r"""\frac{dy}{dx} after \frac, and dy/dx, as a symbol."""
        start = self.at
        try:
            above = self.raw_script()
            self.accept("/")
            below = self.raw_script()
            self.accept("/")
        except UnreadError:
            above = below = ""
        above, below = (name.replace(r"\partial", "d").replace(" ", "") for name in (above, below))
        if above[:1] == below[:1] == "d" and below[1:2].isalpha():
            return ex.sym(f"{above}/{below}")
        self.at = start
        return None

    def root(self) -> Expr:
        degree = self.enclosed("]") if self.accept("[") else ex.num(2)
        return ex.power(self.argument(), ex.power(degree, ex.MINUS_ONE))

    def function(self, name: str) -> Expr:
        r"""\sin x, \sin^2 x, \sin(x), \log_2 8, \gcd(a, b)."""
        base = []
        if name == "log":
            base = [self.argument() if self.accept("_") else ex.num(10)]
        exponent = self.script() if self.accept("^") else None
        if self.accept("("):
            arguments = self.arguments()
        elif self.accept("{"):
            arguments = [self.enclosed("}")]
        else:
            argument = self.scalar(self.power())
            while (self.peek.kind == "letter" or self.peek.text == r"\pi") and not self.unit_at(0):
                argument = ex.mul(argument, self.scalar(self.power()))
            arguments = [argument]
        if exponent is not None and ex.number(exponent) == -1:
            if name not in ("sin", "cos", "tan"):
                raise UnreadError
            name, exponent = f"a{name}", None
        node = ("fn", name, *arguments, *base)
        if name == "exp":
            node = ex.power(ex.EULER, arguments[0])
        return node if exponent is None else ex.power(node, exponent)

    def _matrix(self) -> Expr:
        self.expect("{")
        name = self.take().text
        self.expect("}")
        if name not in _MATRICES or (name == "array" and set(self.raw_script()) - set("clr ")):
            raise UnreadError
        rows = [[self.scalar(self.sum())]]
        while not self.accept(r"\end"):
            if self.expect("&", r"\\") == "&":
                rows[-1].append(self.scalar(self.sum()))
            elif self.peek.text != r"\end":
                rows.append([self.scalar(self.sum())])
        self.expect("{")
        self.expect(name)
        self.expect("}")
        if len({len(row) for row in rows}) > 1:
            raise UnreadError
        return ("matrix", *map(tuple, rows))
