"""Reads LaTeX commands with arguments: fractions, roots, functions, matrices."""

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.tokens import Token
from ceeh.data.verify.unit_reader import UnitReader
from ceeh.data.verify.words import FUNCTIONS

_ACCENT_NAMES = (
    r"\overline \bar \vec \hat \widehat \tilde \underline \overrightarrow \dot \ddot \widetilde"
)
ACCENTS = tuple(_ACCENT_NAMES.split())
SHAPES = (r"\angle", r"\triangle", r"\measuredangle")
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "vmatrix", "array")


def symbol(name: str) -> Expr:
    """A letter: a constant or a symbol."""
    return {"e": ex.EULER, "i": ex.IMAGINARY, r"\pi": ex.PI}.get(name) or ex.sym(name)


class MacroReader(UnitReader):
    def macro(self, text: str) -> Expr:
        """The command `text`, which has been taken, with its arguments."""
        if text == r"\frac":
            if derivative := self.derivative():
                return derivative
            above = self.argument()
            return ex.divide(above, self.argument())
        if text == r"\binom":
            above = self.argument()
            return ("fn", "binomial", above, self.argument())
        if text == r"\sqrt":
            return self.root()
        if text == r"\infty":
            return ex.INFINITY
        if text == r"\emptyset":
            return ("seq", "{}", ())
        if text in (r"\lfloor", r"\lceil"):
            node = self.scalar(self.sum())
            self.expect(text.replace("l", "r", 1))
            return ("fn", "floor" if "floor" in text else "ceiling", node)
        if text in ACCENTS:
            content = self.raw_script()
            return symbol(content if content in ("i", "j", "k") else f"{text} {content}")
        if text in SHAPES:
            return ex.sym(f"{text} {self.take().text}")
        if text == r"\begin":
            return self.matrix()
        if text[:1] == "\\" and text[1:] in FUNCTIONS:
            return self.function(FUNCTIONS[text[1:]])
        raise UnreadError

    def argument(self) -> Expr:
        r"""The argument of \frac or \sqrt: a group, one digit or one token."""
        if self.peek.kind == "number" and len(self.peek.text) > 1:
            token = self.peek
            if not token.text.isdigit():
                raise UnreadError
            self.tokens = list(self.tokens)
            self.tokens[self.at : self.at + 1] = [
                Token("number", token.text[0]),
                Token("number", token.text[1:]),
            ]
            return ex.num(int(self.take().text))
        if self.accept("{"):
            node = self.scalar(self.sum())
            self.expect("}")
            return node
        return self.scalar(self.primary(script=True))

    def arguments(self) -> list[Expr]:
        found = [self.scalar(self.sum())]
        while self.accept(",", ";"):
            found.append(self.scalar(self.sum()))
        self.expect(")")
        return found

    def derivative(self) -> Expr | None:
        r"""\frac{dy}{dx} after \frac, and dy/dx, as a symbol."""
        start, names = self.at, []
        try:
            for _ in range(2):
                names.append(self.raw_script())
                self.accept("/")
        except UnreadError:
            names = ["", ""]
        above, below = (name.replace(r"\partial", "d").replace(" ", "") for name in names)
        if above[:1] == below[:1] == "d" and below[1:2].isalpha():
            return ex.sym(f"{above}/{below}")
        self.at = start
        return None

    def root(self) -> Expr:
        degree = ex.num(2)
        if self.accept("["):
            degree = self.scalar(self.sum())
            self.expect("]")
        return ex.power(self.argument(), ex.power(degree, ex.MINUS_ONE))

    def function(self, name: str) -> Expr:
        r"""\sin x, \sin^2 x, \sin(x), \log_2 8, \gcd(a, b)."""
        exponent = None
        parameters: list[Expr] = []
        if name == "log" and self.accept("_"):
            parameters = [self.argument()]
        elif name == "log":
            parameters = [ex.num(10)]
        if self.accept("^"):
            exponent = self.script()
        if self.accept("("):
            arguments = self.arguments()
        elif self.accept("{"):
            arguments = [self.scalar(self.sum())]
            self.expect("}")
        else:
            argument = self.scalar(self.power())
            while self.peek.kind == "letter" or self.peek.text == r"\pi":
                if self.unit_at(0):
                    break
                argument = ex.mul(argument, self.scalar(self.power()))
            arguments = [argument]
        if exponent is not None and ex.number(exponent) == -1:
            if name not in ("sin", "cos", "tan"):
                raise UnreadError
            name, exponent = f"a{name}", None
        node = ("fn", name, *arguments, *parameters)
        if name == "exp":
            node = ex.power(ex.EULER, arguments[0])
        return node if exponent is None else ex.power(node, exponent)

    def matrix(self) -> Expr:
        self.expect("{")
        name = self.take().text
        self.expect("}")
        if name not in _MATRICES:
            raise UnreadError
        if name == "array" and set(self.raw_script().replace(" ", "")) - set("clr"):
            raise UnreadError
        rows: list[list[Expr]] = [[]]
        while True:
            rows[-1].append(self.scalar(self.sum()))
            if self.accept("\\\\"):
                if self.peek.text != r"\end":
                    rows.append([])
                    continue
            elif self.accept("&"):
                continue
            self.expect(r"\end")
            self.expect("{")
            self.expect(name)
            self.expect("}")
            break
        if len({len(row) for row in rows}) > 1:
            raise UnreadError
        node = ("matrix", *map(tuple, rows))
        return ("fn", "det", node) if name == "vmatrix" else node
