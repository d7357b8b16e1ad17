r"""Reads the tokens of an answer as a value. Every token is read, or the answer is unread.

Values are nested tuples, which a worker can be sent:
("val", expression, unit, percent sign), ("seq", brackets, items) with brackets "" for a list, "{}" for
a set or those of a tuple or interval, ("op", \cup | \cap | \setminus, sets), ("set", name),
("rel", signs, sides), ("named", name, value), ("chain", equal values), ("mod", name, residue, modulus),
("ratio", expressions), ("time", hour, minute, am | pm), ("builder", variable, condition),
("words", text), ("choice", letter, value), ("qualified", clause, value), ("dots",).
"""

from fractions import Fraction

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.tokens import SHORT_WORDS, Token, folded, spelling
from ceeh.data.verify.units import POWERS_AFTER, POWERS_BEFORE, unit_named, unit_text
from ceeh.data.verify.words import (
    CLAUSE_WORDS,
    FRACTIONS,
    FUNCTIONS,
    NUMBERS,
    SCALES,
    SYMBOLS,
)

MAX_ITEMS = 64
MAX_DEPTH = 100
MAX_DIGITS = 100

_END = Token("end", "")
_RELATIONS = ("=", "<", ">", "<=", ">=", "!=", r"\in", r"\equiv", r"\approx")
_SET_SIGNS = (r"\cup", r"\cap", r"\setminus")
_ACCENTS = tuple(
    [
        r"\overline",
        r"\bar",
        r"\vec",
        r"\hat",
        r"\widehat",
        r"\tilde",
        r"\underline",
        r"\overrightarrow",
        r"\dot",
        r"\widetilde",
    ]
)
_SHAPES = (r"\angle", r"\triangle", r"\measuredangle")
_CLOSING = {
    "(": (")", "]"),
    "[": ("]", ")"),
    r"\{": (r"\}",),
    "{": ("}",),
    r"\langle": (r"\rangle",),
}
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "vmatrix", "array")
_FUNCTION_LETTERS = ("f", "g", "F", "G", "P", "Q", r"\phi", r"\Gamma")
_STOPS = (
    *(
        "and",
        "or",
        "for",
        "mod",
        "am",
        "pm",
        "AM",
        "PM",
        "percent",
        "pct",
        "percentage",
        "below",
        "per",
    ),
)
_REALS = r"\mathbb R"
_ALL_REALS = ("all real numbers", "all reals", "all real", "real numbers")
_LINKS = (",", ";", "and", "or")
PLUS_MINUS = r"\pm"


def value_of(node: Expr) -> Expr:
    """An expression as a value without unit."""
    return ("val", node, "", False)


def read(tokens: list[Token]) -> Expr:
    """The value of an answer. Raises UnreadError."""
    clause = next(
        (
            i
            for i, t in enumerate(tokens)
            if t.text in ("for", r"\forall") and _is_clause(tokens[i:])
        ),
        None,
    )
    if clause:
        end = clause - (tokens[clause - 1].text == ",")
        kept = [t.text for t in tokens[clause:] if t.kind == "letter" or "integer" in t.text]
        return ("qualified", " ".join(kept), read(tokens[:end]))
    start = 1 if tokens[0].text == "(" else 0
    label, closing = [*tokens[start : start + 2], _END, _END][:2]
    if label.kind == "letter" and label.text in "ABCDEFGH" and closing.text in (")", "."[start:]):
        value = tokens[start + 2 :]
        if value and value[0].text not in _LINKS and (label.font or value[0].spaced):
            return ("choice", label.text, read(value))
    reader = _Reader(tokens)
    value = reader.items(())
    if reader.peek is not _END:
        raise UnreadError
    return value


def _is_clause(tokens: list[Token]) -> bool:
    """Whether these are words such as "for all real x", which restrict nothing."""
    words = [t.text for t in tokens if t.kind == "word"]
    letters = [t for t in tokens if t.kind == "letter"]
    others = [t.text for t in tokens if t.kind not in ("word", "letter")]
    begins = tokens[0].text == r"\forall" or words[1:2] in (["all"], ["any"], ["every"], ["each"])
    return (
        begins
        and set(words) <= CLAUSE_WORDS
        and len(letters) == 1
        and (others in ([], [r"\forall"], [r"\in", _REALS], [r"\forall", r"\in", _REALS]))
    )


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    @property
    def peek(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else _END

    def ahead(self, count: int = 1) -> Token:
        return self.tokens[self.at + count] if self.at + count < len(self.tokens) else _END

    def take(self) -> Token:
        token = self.peek
        self.at += 1
        return token

    def accept(self, *texts: str) -> str:
        if self.peek.text in texts and self.peek is not _END:
            return self.take().text
        return ""

    def expect(self, *texts: str) -> str:
        if not (found := self.accept(*texts)):
            raise UnreadError
        return found

    # Lists, relations and sets

    def items(self, closing: tuple[str, ...], *, brackets: str = "") -> Expr:
        """The items up to a closing bracket or the end: one as it is, several as a sequence."""
        items: list[Expr] = []
        links: set[str] = set()
        while True:
            item = self.item()
            spread = item[:2] == ("seq", "±")
            items += item[2] if spread else [item]
            links |= {"±"} if spread else set()
            link = self.accept(",", ";")
            link = self.accept("and", "or") or link
            if not link:
                break
            links.add(link)
        if len(items) > MAX_ITEMS:
            raise UnreadError
        if len(items) == 1 and brackets != "{}":
            return items[0]
        if "±" in links and brackets not in ("", "{}"):
            raise UnreadError
        names = {i[1] for i in items if i[0] == "named"}
        others = {i[0] for i in items} - {"named", "val"}
        if brackets == "" and len(names) == 1 and items[0][0] == "named" and not others:  # x = 1, 2
            values = tuple(i[2] if i[0] == "named" else i for i in items)
            if all(value[0] == "val" for value in values):
                return ("named", names.pop(), ("seq", "{}", values))
        if links in ({"or"}, {"and"}) and all(i[0] in ("rel", "op", "builder") for i in items):
            return ("op", r"\cup" if "or" in links else r"\cap", tuple(items))
        if brackets == "" and links != {","} and links != {";"} and len(names) < 2:
            brackets = "{}"  # 1 or 2, \pm 1: values in no order
        return ("seq", brackets, tuple(items))

    def item(self) -> Expr:
        """One member of a list: a value, a relation, a congruence, a ratio or a time."""
        if self.accept("..."):
            return ("dots",)
        start = self.at
        sides, signs, names = [self.operand()], [], [self._name(start)]
        while sign := self.accept(*_RELATIONS):
            signs.append(sign)
            start = self.at
            sides.append(self.operand())
            names.append(self._name(start))
        if self.peek.text == "(" and self.ahead().text == "mod":
            self.take()
            return self.congruence(sides, signs, names, closing=")")
        if self.peek.text in ("mod", r"\mod", r"\pmod"):
            return self.congruence(sides, signs, names)
        if not signs:
            return self.ratio(sides[0]) if self.peek.text in (":", "am", "pm") else sides[0]
        if r"\equiv" in signs or r"\approx" in signs:
            raise UnreadError
        name = names[0]
        if signs == [r"\in"] and name:
            return ("named", name, sides[1])
        if r"\in" in signs:
            raise UnreadError
        if set(signs) == {"="}:
            if name and self.peek.text == ":":
                raise UnreadError
            rest = sides[1:] if name else sides
            chain = rest[0] if len(rest) == 1 else ("chain", tuple(rest))
            if chain[:2] == ("seq", "±"):
                chain = ("seq", "{}", chain[2])
            if name:
                return ("named", name, chain)
            if all(side[0] == "val" and not ex.symbols(side[1]) for side in sides):
                return chain
        return ("rel", tuple(signs), tuple(self.plain(side) for side in sides))

    def _name(self, start: int) -> str:
        """What the operand since `start` may name: x, x_1, f(x), AB, Area, (x, y), AB/CD; or ""."""
        tokens = self.tokens[start : self.at]
        if len(tokens) == 1 and tokens[0].kind == "letter":
            return tokens[0].text
        if all(t.font == "text" or t.font == "name" for t in tokens):  # Area, AB
            return "".join(t.text for t in tokens)
        if any(t.kind == "number" for t in tokens[:1]):
            return ""
        letters = [t for t in tokens if t.kind in ("letter", "word")]
        if letters and all(t.font == "name" for t in letters):  # \frac{AB}{CD}
            return spelling(tokens) if not any(t.kind == "number" for t in tokens) else ""
        called = [t.text for t in tokens[1:]]
        if tokens[0].kind == "letter" and called[0] == "(" and called[-1] == ")":  # y(t), x(0)
            if not set("([+-*/") & set("".join(called[1:])):
                return spelling(tokens)
        try:
            node = _Reader(tokens).operand()
        except UnreadError:
            return ""
        if node[0] == "words":
            return node[1]
        if node[0] == "val" and node[1][0] in ("sym", "app") and not node[2]:
            return ex.written(node[1])
        if node[:2] == ("seq", "()") and all(i[0] == "val" and i[1][0] == "sym" for i in node[2]):
            return ",".join(i[1][1] for i in node[2])
        return ""

    def congruence(
        self, sides: list[Expr], signs: list[str], names: list[str], closing: str = ""
    ) -> Expr:
        self.take()
        modulus = self.script() if self.peek.text == "{" else self.scalar(self.sum())
        if closing:
            self.expect(closing)
        sides = [self.plain(side) for side in sides]
        if not signs:
            return ("mod", "", sides[0], modulus)
        if len(signs) == 1 and signs[0] in ("=", r"\equiv"):
            return ("mod", names[0] or ex.written(sides[0]), sides[1], modulus)
        raise UnreadError

    def ratio(self, first: Expr) -> Expr:
        """3:2, or a time: 2:05, 2:05 pm, 3 pm."""
        parts = [self.tokens[self.at - 1]]
        sides = [self.plain(first)]
        while self.accept(":"):
            start = self.at
            sides.append(self.plain(self.operand()))
            parts.append(self.tokens[start])
        half = self.accept("am", "pm", "AM", "PM").lower()
        whole = [ex.number(side) for side in sides]
        hours = whole[0] is not None and 0 <= whole[0] <= 24
        if hours and (half or len(parts[-1].text) == 2) and len(parts) <= 2:
            minute = whole[1] if len(whole) == 2 else Fraction(0)
            if minute is not None and 0 <= minute < 60:
                return ("time", whole[0], minute, half)
        if half or len(sides) < 2:
            raise UnreadError
        return ("ratio", tuple(sides))

    def operand(self) -> Expr:
        """A quantity with its unit, or sets joined by set signs."""
        sets, signs = [self.quantity()], set()
        while sign := self.accept(*_SET_SIGNS, "-" if sets[0][0] == "set" else ""):
            signs.add(r"\setminus" if sign == "-" else sign)
            sets.append(self.quantity())
        if not signs:
            return sets[0]
        if len(signs) > 1 or (r"\setminus" in signs and len(sets) > 2):
            raise UnreadError
        return ("op", signs.pop(), tuple(sets))

    def quantity(self) -> Expr:
        sign = ex.MINUS_ONE if self.peek.text == "-" and self.ahead().text == r"\$" else ex.ONE
        if sign == ex.MINUS_ONE:
            self.take()
        dollars = bool(self.accept(r"\$"))
        if (words := self.words()) is not None:
            return words
        node = self.sum()
        if not ex.is_expr(node):
            return node
        node = ex.mul(sign, node) if dollars else node
        percent = bool(self.accept("%", "percent", "pct", "percentage"))
        node, unit = _without_degrees(node)
        if unit and self.peek.text in ("C", "F", "Celsius", "Fahrenheit", "celsius", "fahrenheit"):
            unit += self.take().text[0].upper()
        if not unit and not percent:
            unit = self.unit()
        if (self.peek.text, self.ahead().text) == ("below", "zero"):
            self.at += 2
            node = ex.negative(node)
        if dollars:
            if unit or percent:
                raise UnreadError
            unit = "$"
        value = _both_signs(("val", node, unit, percent))
        if unit and self.peek.kind == "number" and value[0] == "val":  # 5 ft 6 in
            rest = self.quantity()
            return ("seq", "&&", (value, *(rest[2] if rest[:2] == ("seq", "&&") else (rest,))))
        return value

    def unit(self) -> str:
        """The unit at this place, in one spelling; "" if there is none."""
        powers: list[tuple[str, int]] = []
        sign, before = 1, 1
        while True:
            token = self.peek
            if token.text in ("/", "per") or (token.text == "*" and powers):
                if not self._unit_at(1, plain=bool(powers)):
                    break
                sign = 1 if token.text == "*" else -1
                self.take()
            if token.text.lower() in POWERS_BEFORE and self._unit_at(1):
                before = POWERS_BEFORE[self.take().text.lower()]
            named = self._unit_at(0, plain=bool(powers) and sign < 0)
            if not named:
                break
            self.take()
            if named == "deg" and self._unit_at(0) in ("degC", "degF"):
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

    def _unit_at(self, count: int, *, plain: bool = False) -> str | None:
        r"""The unit `count` tokens ahead; a single letter outside of \text{} only where `plain`."""
        token = self.ahead(count)
        if token.text == r"\$":
            return "$"
        if token.kind not in ("word", "letter") or token.text in _STOPS:
            return None
        in_text = plain or (token.font == "text" and token.text not in ("e", "i"))
        before = self.tokens[self.at + count - 1] if self.at + count else _END
        if not in_text and len(token.text) < 4 and before.kind == "letter":
            return None  # 2x cm is read as a product
        return unit_named(token.text, in_text=in_text)

    def words(self) -> Expr | None:
        """Words that are no numbers, functions or variables: ("words", text); None if there are none."""
        count = 0
        while self.ahead(count).kind in ("word", "letter") or (
            count and self.ahead(count).text in ("-", "'") and self.ahead(count + 1).kind == "word"
        ):
            if self.ahead(count).text in ("and", "or", "for", "mod"):
                break
            count += 1
        tokens = self.tokens[self.at : self.at + count]
        if not any(t.kind == "word" and not _is_mathematical(t) for t in tokens):
            return None
        first = tokens[0]
        if len(tokens) == 1 and len(first.text) < 4 and first.text.lower() not in SHORT_WORDS:
            label = first.text.isupper() and self.ahead(1).text in ("", *_LINKS)
            if not label and first.font != "text":
                return None  # a product of variables
        if first.kind == "letter" and not first.font and first.text not in ("a", "A", "I"):
            return None
        if first.kind == "word" and _is_mathematical(first):
            return None
        self.at += count
        text = " ".join(folded(t.text) for t in tokens)
        return ("set", "R") if text in _ALL_REALS else ("words", text)

    # Expressions

    def plain(self, value: Expr) -> Expr:
        """The expression of a value without unit."""
        if value[0] == "val" and not value[2] and not value[3]:
            return value[1]
        return self.scalar(value)

    def scalar(self, node: Expr) -> Expr:
        if not ex.is_expr(node):
            raise UnreadError
        return node

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
        node = self.power()
        if whole is not None and self.at == start + 1 and (part := self.mixed_part()) is not None:
            node = ex.add(node, part)
        while True:
            token = self.peek
            if token.text == "*" and not self._unit_at(1):
                self.take()
                node = ex.mul(self.scalar(node), self.signed_power())
            elif token.text == "/" and not self._unit_at(1):
                self.take()
                node = ex.divide(self.scalar(node), self.signed_power())
            elif self._is_times_sign():
                self.take()
                node = ex.mul(self.scalar(node), self.power())
            elif self._begins_factor(token):
                node = ex.mul(self.scalar(node), self.scalar(self.power()))
            else:
                return node

    def signed_power(self) -> Expr:
        sign = self.signs()
        return ex.mul(sign or ex.ONE, self.scalar(self.power()))

    def mixed_part(self) -> Expr | None:
        r"""The fraction of 1\frac{1}{2} or 1 1/2."""
        start = self.at
        if self.peek.text == r"\frac":
            part = self.power()
            if part[0] == "num" and part[1] > 0 and not part[2]:
                return part
            self.at = start
        elif self.peek.kind == "number" and self.ahead().text == "/":
            above, _, below = self.take(), self.take(), self.take()
            if above.text.isdigit() and below.text.isdigit() and above.text[0] != "0":
                return ex.divide(ex.num(int(above.text)), ex.num(int(below.text)))
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
        if token.kind in ("letter", "word"):
            if token.text in _STOPS or token.text in POWERS_BEFORE or self._unit_at(0):
                return False
            return True
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
            token.text in (r"\lfloor", r"\lceil", *_ACCENTS, *_SHAPES)
            or (token.text[:1] == "\\" and token.text[1:] in FUNCTIONS)
        )

    def power(self) -> Expr:
        node = self.primary()
        while True:
            if self.accept("!"):
                node = ("fn", "factorial", self.scalar(node))
            elif self.accept(r"^\circ"):
                node = ("deg", self.scalar(node))
            else:
                break
        if not self.accept("^"):
            return node
        if node[0] == "set":
            return ("set", f"{node[1]}^{self.raw_script()}")
        node = ex.power(self.scalar(node), self.script())
        if self.peek.text in ("^", "_"):
            raise UnreadError
        while self.accept("!"):
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

    def raw_script(self) -> str:
        """A sub- or superscript as text."""
        if self.peek.text != "{":
            return self.take().text
        depth, start = 0, self.at
        while True:
            if self.peek is _END:
                raise UnreadError
            depth += {"{": 1, "}": -1}.get(self.take().text, 0)
            if depth == 0:
                return spelling(self.tokens[start + 1 : self.at - 1])

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
            if script and not _is_mathematical(token):
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
        if text in _ACCENTS:
            content = self.raw_script()
            return self.symbol(content if content in ("i", "j", "k") else f"{text} {content}")
        if text in _SHAPES:
            return ex.sym(f"{text} {self.take().text}")
        if text == r"\begin":
            return self.matrix()
        if text[:1] == "\\" and text[1:] in FUNCTIONS:
            return self.function(FUNCTIONS[text[1:]])
        raise UnreadError

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
            return self.symbol(name)
        if name[:1] in _FUNCTION_LETTERS or name in _FUNCTION_LETTERS or name[-1] == "'":
            start = self.at
            if self.accept("^"):
                name += f"^{self.index()}"
            if self.peek.text == "(" and not self.peek.spaced:
                self.take()
                return ("app", name, *self.arguments())
            self.at, name = start, name.partition("^")[0]
        return self.symbol(name)

    def symbol(self, name: str) -> Expr:
        return {"e": ex.E, "i": ex.I, r"\pi": ex.PI}.get(name) or ex.sym(name)

    def arguments(self) -> list[Expr]:
        found = [self.scalar(self.sum())]
        while self.accept(",", ";"):
            found.append(self.scalar(self.sum()))
        self.expect(")")
        return found

    def word(self, token: Token) -> Expr:
        text = token.text
        if (name := FUNCTIONS.get(text)) is not None:
            return self.function(name)
        if text == "sqrt":
            return self.root()
        if text in SYMBOLS and (len(text) > 3 or text in ("pi", "phi", "psi")):
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
            return ex.num(value)
        if token.font == "text" or len(text) > 3:
            raise UnreadError
        letters = [Token("letter", letter, "name" * text.isupper()) for letter in text]
        self.tokens = [*self.tokens[: self.at - 1], *letters, *self.tokens[self.at :]]
        self.at -= 1
        return self.power()

    def derivative(self) -> Expr | None:
        r"""\frac{dy}{dx} after \frac, and dy/dx, as a symbol."""
        start, names = self.at, []
        for _ in range(2):
            names.append(self.raw_script())
            self.accept("/")
        if all(name.replace(r"\partial", "d")[:1] == "d" for name in names) and len(names[1]) > 1:
            if names[1].replace(" ", "").replace(r"\partial", "d")[1:2].isalpha():
                return ex.sym(f"{names[0]}/{names[1]}")
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
                if self._unit_at(0):
                    break
                argument = ex.mul(argument, self.scalar(self.power()))
            arguments = [argument]
        if exponent is not None and ex.number(exponent) == -1:
            if name not in ("sin", "cos", "tan"):
                raise UnreadError
            name, exponent = f"a{name}", None
        if name == "exp":
            node = ex.power(ex.E, arguments[0])
        else:
            node = ("fn", name, *arguments, *parameters)
        return node if exponent is None else ex.power(node, exponent)

    def group(self, opening: str) -> Expr:
        """What brackets enclose: an expression, a tuple, an interval, a set."""
        bars, self.bars = self.bars, 0
        closing = _CLOSING[opening]
        if opening == r"\{" and self.accept(r"\}"):
            return ("seq", "{}", ())
        if opening == r"\{" and (built := self.builder()) is not None:
            return built
        brackets = "{}" if "{" in opening else ""
        value = self.items(closing, brackets="" if opening == "{" else brackets or "()")
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
        condition = self.items(())
        self.expect(r"\}")
        return ("builder", variable.text, "" if domain == "R" else domain, condition)

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


def _is_mathematical(token: Token) -> bool:
    """Whether a word is a number, a function, a letter's name or a sign."""
    text = token.text
    return (
        text in FUNCTIONS
        or text in ("sqrt", "infinity", "inf", "oo", "negative", "minus", "positive", *_STOPS)
        or (text in SYMBOLS and (len(text) > 3 or text in ("pi", "phi", "psi")))
        or text.lower() in SCALES
        or text.lower() in NUMBERS
    )


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
    signs = sum(part == ex.sym(PLUS_MINUS) for part in ex.walk(value[1]))
    if not signs:
        return value
    if signs > 1:
        raise UnreadError
    both = (ex.replaced(value[1], PLUS_MINUS, sign) for sign in (ex.ONE, ex.MINUS_ONE))
    return ("seq", "±", tuple(("val", node, *value[2:]) for node in both))
