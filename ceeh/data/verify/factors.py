"""Reads one factor: a number, a letter, a word, a group in brackets or a command."""

from abc import abstractmethod
from fractions import Fraction

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.commands import ACCENTS, SHAPES, CommandReader, symbol
from ceeh.data.verify.expressions import Expr, UnreadError
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

_FUNCTION_LETTERS = ("f", "g", "F", "G", "P", "Q", r"\phi", r"\Gamma")
_FACTOR_NAMES = r"[ { \l| \frac \sqrt \binom \begin \infty \pi \lfloor \lceil"
_FACTORS = {*_FACTOR_NAMES.split(), *ACCENTS, *SHAPES, *(f for f in FUNCTIONS if f[0] == "\\")}
"""Signs and commands that begin a factor."""


class FactorReader(CommandReader):
    """Reads the factor at its place; what stands in brackets is read by the layers above."""

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__(tokens)
        self.depth = 0
        self.bars = 0

    @abstractmethod
    def group(self, opening: str) -> Expr:
        """What is between brackets, of which `opening` has been taken."""

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
        return self.command(text)

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
            return self.function(FUNCTIONS[text])
        if text == "sqrt":
            return self.root()
        if text in SYMBOLS:
            return self._letter(SYMBOLS[text], False)
        if text in INFINITE:
            return ex.INFINITY
        if text[0] == "d" and len(text) == 2 and self.peek.text == "/":  # dy/dx
            self.at -= 1
            if derivative := self.derivative():
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
