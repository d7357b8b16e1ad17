"""Reads expressions: sums, products, powers, numbers, letters and LaTeX commands with their arguments."""

import re
from abc import ABC, abstractmethod
from fractions import Fraction

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.tokens import Token, spelling
from ceeh.data.verify.words import (
    FUNCTIONS,
    INFINITE,
    NUMBERS,
    POWERS_BEFORE,
    SCALES,
    STOPS,
    SYMBOLS,
    is_mathematical,
    unit_named,
)

MAX_DEPTH = 50
MAX_DIGITS = 100
PLUS_MINUS = ex.sym(r"\pm")
END = Token("end", "")

_SIGNS = {
    **dict.fromkeys(("+", "positive"), ex.ONE),
    **dict.fromkeys(("-", "negative", "minus"), ex.MINUS_ONE),
    **{r"\pm": PLUS_MINUS, r"\mp": ex.negative(PLUS_MINUS)},
}
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


class TermReader(ABC):
    """A place `at` in the tokens of an answer, and what reads the expression there.

    Readers move `at`; they raise UnreadError at a token that has no meaning there.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    @abstractmethod
    def group(self, opening: str) -> Expr:
        """What is between brackets, of which `opening` has been taken."""

    @property
    def peek(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def ahead(self, count: int) -> Token:
        at = self.at + count
        return self.tokens[at] if 0 <= at < len(self.tokens) else END

    def take(self) -> Token:
        if self.at >= len(self.tokens):
            raise UnreadError
        self.at += 1
        return self.tokens[self.at - 1]

    def accept(self, *texts: str) -> str:
        """The text of the next token, taken, if it is one of `texts`; else ""."""
        return self.take().text if self.peek is not END and self.peek.text in texts else ""

    def expect(self, *texts: str) -> str:
        if not (found := self.accept(*texts)):
            raise UnreadError
        return found

    def replace(self, tokens: list[Token]) -> None:
        """Puts `tokens` in the place of the next one."""
        self.tokens = [*self.tokens[: self.at], *tokens, *self.tokens[self.at + 1 :]]

    def raw_script(self) -> str:
        """A sub- or superscript as text."""
        if self.peek.text != "{":
            return self.take().text
        depth, start = 0, self.at
        while True:
            depth += {"{": 1, "}": -1}.get(self.take().text, 0)
            if depth == 0:
                return spelling(self.tokens[start + 1 : self.at - 1])

    def unit_at(self, count: int, *, plain: bool = False) -> str | None:
        r"""The unit `count` tokens ahead; a single letter outside of \text{} only where `plain`."""
        token = self.ahead(count)
        if token.text == r"\$":
            return "$"
        if token.kind not in ("word", "letter") or token.text in STOPS:
            return None
        in_text = plain or (token.font == "text" and token.text not in ("e", "i"))
        if not in_text and len(token.text) < 4 and self.ahead(count - 1).kind == "letter":
            return None  # 2x cm is read as a product
        return unit_named(token.text, in_text=in_text)

    def scalar(self, node: Expr) -> Expr:
        if not ex.is_expr(node):
            raise UnreadError
        return node

    def enclosed(self, closing: str) -> Expr:
        """An expression and the bracket that closes it."""
        node = self.scalar(self.sum())
        self.expect(closing)
        return node

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
            elif self._begins_factor(token):
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

    def _begins_factor(self, token: Token) -> bool:
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

    def _with_suffix(self, node: Expr) -> Expr:
        """`node` with the factorial and degree signs after it."""
        if self.accept("!"):
            node = ("fn", "factorial", self.scalar(node))
        return ("deg", self.scalar(node)) if self.accept(r"^\circ") else node

    def script(self) -> Expr:
        """An exponent or subscript: a group, a signed number as models write it, or one factor."""
        sign = self.signs()
        return self._braced() if sign is None else ex.mul(sign, self._braced())

    def argument(self) -> Expr:
        r"""The argument of \frac or \sqrt: a group, one digit or one token."""
        text = self.peek.text
        if self.peek.kind == "number" and len(text) > 1:
            if not text.isdigit():
                raise UnreadError
            self.replace([Token("number", text[0]), Token("number", text[1:])])
        return self._braced()

    def _braced(self) -> Expr:
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
