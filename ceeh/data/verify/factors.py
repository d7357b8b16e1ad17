"""Reads one factor: a number, a letter, a word, a group in brackets or a LaTeX command with its arguments."""

import re
from abc import ABC, abstractmethod
from fractions import Fraction

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.token_reader import TokenReader
from ceeh.data.verify.tokens import Token
from ceeh.data.verify.words import (
    FUNCTIONS,
    INFINITE,
    NUMBERS,
    POWERS_BEFORE,
    SCALES,
    STOPS,
    SYMBOLS,
    is_mathematical,
)

MAX_DEPTH = 50
MAX_DIGITS = 100

_CONSTANTS = {"e": ex.EULER, "i": ex.IMAGINARY, r"\pi": ex.PI}
_FUNCTION_LETTERS = ("f", "g", "F", "G", "P", "Q", r"\phi", r"\Gamma")
_ACCENT_NAMES = (
    r"\overline \bar \vec \hat \widehat \tilde \underline \overrightarrow \dot \ddot \widetilde"
)
_ACCENTS = frozenset(_ACCENT_NAMES.split())
_SHAPES = (r"\angle", r"\triangle", r"\measuredangle")
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array")
_FACTOR_NAMES = r"[ { \l| \frac \sqrt \binom \begin \infty \pi \lfloor \lceil"
_FACTORS = {*_FACTOR_NAMES.split(), *_ACCENTS, *_SHAPES, *(f for f in FUNCTIONS if f[0] == "\\")}
"""Signs and commands that begin a factor."""


def symbol(name: str) -> Expr:
    """A letter: a constant or a symbol."""
    return _CONSTANTS.get(name) or ex.sym(name)


class FactorReader(TokenReader, ABC):
    """Reads the factor at its place; what stands in brackets and arguments is read by the layers above."""

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__(tokens)
        self.depth = 0
        self.bars = 0

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
    def group(self, opening: str) -> Expr:
        """What is between brackets, of which `opening` has been taken."""

    def scalar(self, node: Expr) -> Expr:
        if not ex.is_expr(node):
            raise UnreadError
        return node

    def enclosed(self, closing: str) -> Expr:
        """An expression and the bracket that closes it."""
        node = self.scalar(self.sum())
        self.expect(closing)
        return node

    def begins_factor(self, token: Token) -> bool:
        if token.kind == "number" or token.text.lower() in NUMBERS:
            raise UnreadError  # two numbers side by side, twenty four
        if token.kind in ("letter", "word"):
            degrees = self.ahead(-1).text == r"^\circ" and token.text in ("C", "F")
            ends = degrees or token.text in STOPS or token.text in POWERS_BEFORE
            return not ends and not self.unit_at(0)
        if token.text == "|":
            return not self.bars
        if token.text == "(":
            return self.ahead(1).text != "mod"
        return token.text in _FACTORS

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

    def primary(self, *, script: bool = False) -> Expr:
        """One factor. `script` takes no more than one token or group, as an exponent does."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadError
        node = self._primary(self.take(), script)
        self.depth -= 1
        return node

    def _primary(self, token: Token, script: bool) -> Expr:
        text = token.text
        if token.kind == "number":
            return self._number(text, script)
        if token.kind == "letter" or text == r"\pi":
            return self._letter(text, script)
        if token.kind == "word":
            if script and not is_mathematical(text):
                raise UnreadError
            return self._word(token)
        if token.kind == "set":
            return ("set", text[-1])
        if text in ("(", "[", r"\{", "{", r"\langle"):
            return self.group(text)
        if text in ("|", r"\l|"):
            self.bars += 1
            node = self.enclosed("|" if text == "|" else r"\r|")
            self.bars -= 1
            return ("fn", "abs", node)
        return self._command(text)

    def _number(self, text: str, script: bool) -> Expr:
        if len(text) > MAX_DIGITS:
            raise UnreadError
        if "." in text and self.accept(r"\overline", r"\bar", r"\dot"):
            again = self.raw_script()
            before, _, once = text.partition(".")
            if not again.isdigit() or "e" in text:
                raise UnreadError
            difference = int(before + once + again) - int(before + once or "0")
            return ex.num(Fraction(difference, (10 ** len(again) - 1) * 10 ** len(once)))
        if not script and self.accept("_"):
            return ex.sym(f"{text} base {self.index()}")
        return ex.num(Fraction(text), decimal="." in text)

    def _letter(self, name: str, script: bool) -> Expr:
        name = self._with_primes(name)
        if script:
            return symbol(name)
        if self.accept("_"):
            name = self._with_primes(f"{name}_{self.index()}")
        if name[:1] in _FUNCTION_LETTERS or name in _FUNCTION_LETTERS or name[-1] == "'":
            start = self.at
            function = f"{name}^{self.index()}" if self.accept("^") else name
            if not self.peek.spaced and self.accept("("):
                return ("app", function, *self.arguments())
            self.at = start
        return symbol(name)

    def _with_primes(self, name: str) -> str:
        while self.accept("'"):
            name += "'"
        return name

    def _word(self, token: Token) -> Expr:
        text, lower = token.text, token.text.lower()
        if text in FUNCTIONS:
            return self._function(FUNCTIONS[text])
        if text == "sqrt":
            return self._root()
        if text in SYMBOLS:
            return self._letter(SYMBOLS[text], False)
        if text in INFINITE:
            return ex.INFINITY
        if text[0] == "d" and len(text) == 2 and self.peek.text == "/":  # dy/dx
            self.at -= 1
            if derivative := self._derivative():
                return derivative
            self.at += 1
        if lower in SCALES:
            after = self.ahead(1).text.lower()
            if self.peek.text == "-" and (after in NUMBERS or after in SCALES):
                raise UnreadError  # hundred-five
            return ex.num(SCALES[lower])
        if lower in NUMBERS and self.peek.text != "-":  # not of twenty-four
            return ex.num(NUMBERS[lower])
        if token.font == "text" or len(text) > 3:
            raise UnreadError
        self.at -= 1
        self.replace([Token("letter", letter, "name" * text.isupper()) for letter in text])
        return self.power()

    def _command(self, text: str) -> Expr:
        """The command `text`, which has been taken, with its arguments."""
        match text:
            case r"\frac":
                return self._derivative() or ex.divide(self.argument(), self.argument())
            case r"\binom":
                return ("fn", "binomial", self.argument(), self.argument())
            case r"\sqrt":
                return self._root()
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
        if text in _ACCENTS:
            content = self.raw_script()
            return symbol(content if content in ("i", "j", "k") else f"{text} {content}")
        if text in _SHAPES:
            return ex.sym(f"{text} {self.take().text}")
        if text in FUNCTIONS:
            return self._function(FUNCTIONS[text])
        raise UnreadError

    def _derivative(self) -> Expr | None:
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

    def _root(self) -> Expr:
        degree = self.enclosed("]") if self.accept("[") else ex.num(2)
        return ex.power(self.argument(), ex.power(degree, ex.MINUS_ONE))

    def _function(self, name: str) -> Expr:
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
