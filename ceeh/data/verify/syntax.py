r"""Reads the tokens of an answer as a value. Every token is read, or the answer is unread.

The grammar has a file for each layer, a class on the one below: `token_reader`, `commands`, `factors`,
`terms`, `quantities`, and here answers.

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
from ceeh.data.verify.quantities import QuantityReader
from ceeh.data.verify.token_reader import END
from ceeh.data.verify.tokens import Token, spelling
from ceeh.data.verify.words import CLAUSE_WORDS, LINKS

MAX_ITEMS = 64

_RELATIONS = ("=", "<", ">", "<=", ">=", "!=", r"\in", r"\equiv", r"\approx")
_SET_SIGNS = (r"\cup", r"\cap", r"\setminus")
_PAIR_NAMES = r"() (] [] [) {} \{\} \langle\rangle"
_PAIRS = frozenset(_PAIR_NAMES.split())
_MEMBER = [r"\in", r"\mathbb R"]
_MAX_CLAUSE = 12
_HALVES = ("am", "pm", "AM", "PM")


def read(tokens: list[Token]) -> Expr:
    """The value of an answer. Raises UnreadError."""
    for i, token in enumerate(tokens):
        short = i > 0 and len(tokens) - i <= _MAX_CLAUSE
        if short and token.text in ("for", r"\forall") and _is_clause(tokens[i:]):
            kept = [t.text for t in tokens[i:] if t.kind == "letter" or "integer" in t.text]
            value = read(tokens[: i - (tokens[i - 1].text == ",")])
            return ("qualified", " ".join(kept), value)
    start = 1 if tokens and tokens[0].text == "(" else 0
    label, closing, first = [*tokens[start : start + 3], END, END, END][:3]
    if (
        label.kind == "letter"
        and label.text in "ABCDEFGH"
        and closing.text in (")", "."[start:])
        and first.text not in ("", *LINKS)
        and (label.font or first.spaced)
    ):
        return ("choice", label.text, _read_items(tokens[start + 2 :]))
    return _read_items(tokens)


def _read_items(tokens: list[Token]) -> Expr:
    reader = _AnswerReader(tokens)
    value = reader.items()
    if reader.peek is not END:
        raise UnreadError
    return value


def _is_clause(tokens: list[Token]) -> bool:
    """Whether these are words such as "for all real x", which restrict nothing."""
    words = [t.text for t in tokens if t.kind == "word"]
    others = [t.text for t in tokens if t.kind not in ("word", "letter")]
    forall = others[:1] == [r"\forall"]
    return (
        (tokens[0].text == r"\forall" or words[1:2] in (["all"], ["any"], ["every"], ["each"]))
        and set(words) <= CLAUSE_WORDS
        and sum(t.kind == "letter" for t in tokens) == 1
        and others[forall:] in ([], _MEMBER)
    )


class _AnswerReader(QuantityReader):
    def items(self, *, brackets: str = "") -> Expr:
        """The items up to a closing bracket or the end: one as it is, several as a sequence."""
        items: list[Expr] = []
        links: set[str] = set()
        while True:
            item = self.item()
            if item[:2] == ("seq", "±"):
                items += item[2]
                links.add("±")
            else:
                items.append(item)
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
        sides, signs = [self.operand()], []
        name = self._name(start, sides[0]) if self.peek is not END else ""
        while sign := self.accept(*_RELATIONS):
            signs.append(sign)
            sides.append(self.operand())
        if self.peek.text == "(" and self.ahead(1).text == "mod":
            self.take()
            return self.congruence(sides, signs, name, closing=")")
        if self.peek.text in ("mod", r"\mod", r"\pmod"):
            return self.congruence(sides, signs, name)
        if not signs:
            return self.ratio(sides[0]) if self.peek.text in (":", *_HALVES) else sides[0]
        if signs == [r"\in"] and name:
            return ("named", name, sides[1])
        if {r"\in", r"\equiv", r"\approx"} & set(signs):
            raise UnreadError
        if set(signs) == {"="}:
            if name and self.peek.text == ":":
                raise UnreadError
            rest = sides[1:] if name else sides
            chain: Expr = rest[0] if len(rest) == 1 else ("chain", tuple(rest))
            if chain[:2] == ("seq", "±"):
                chain = ("seq", "{}", chain[2])
            if name:
                return ("named", name, chain)
            if all(side[0] == "val" and not ex.symbols(side[1]) for side in sides):
                return chain
        return ("rel", tuple(signs), tuple(self.plain(side) for side in sides))

    def _name(self, start: int, value: Expr) -> str:
        """What the operand `value` since `start` may name: x, x_1, f(x), AB, Area, (x, y), AB/CD; or ""."""
        tokens = self.tokens[start : self.at]
        if len(tokens) == 1 and tokens[0].kind == "letter":
            return tokens[0].text
        letters = [t for t in tokens if t.kind in ("letter", "word")]
        if letters == tokens and all(t.font in ("text", "name") for t in tokens):  # Area, AB
            return "".join(t.text for t in tokens)
        if any(t.kind == "number" for t in tokens[:1]):
            return ""
        if letters and all(t.font == "name" for t in letters):  # \frac{AB}{CD}
            return spelling(tokens) if not any(t.kind == "number" for t in tokens) else ""
        called = [t.text for t in tokens[1:]]
        simple = not set("([+-*/") & set("".join(called[1:]))
        if simple and tokens[0].kind == "letter" and called[0] == "(" and called[-1] == ")":
            return spelling(tokens)  # y(t), x(0)
        match value:
            case ("words", text):
                return text
            case ("val", ("sym" | "app", *_), "", False):
                return ex.written(value[1])  # type: ignore[arg-type]
            case ("seq", "()", items) if all(i[0] == "val" and i[1][0] == "sym" for i in items):
                return ",".join(i[1][1] for i in items)
        return ""

    def congruence(self, sides: list[Expr], signs: list[str], name: str, closing: str = "") -> Expr:
        self.take()
        modulus = self.script() if self.peek.text == "{" else self.scalar(self.sum())
        if closing:
            self.expect(closing)
        sides = [self.plain(side) for side in sides]
        if not signs:
            return ("mod", "", sides[0], modulus)
        if len(signs) == 1 and signs[0] in ("=", r"\equiv"):
            return ("mod", name or ex.written(sides[0]), sides[1], modulus)
        raise UnreadError

    def ratio(self, first: Expr) -> Expr:
        """3:2, or a time: 2:05, 2:05 pm, 3 pm."""
        parts = [self.tokens[self.at - 1]]
        sides = [self.plain(first)]
        while self.accept(":"):
            start = self.at
            sides.append(self.plain(self.operand()))
            parts.append(self.tokens[start])
        half = self.accept(*_HALVES).lower()
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
        many = len(signs) > 1 or (r"\setminus" in signs and len(sets) > 2)
        if many or any(value[:2] == ("seq", "±") for value in sets):
            raise UnreadError
        return ("op", signs.pop(), tuple(sets))

    def group(self, opening: str) -> Expr:
        """What brackets enclose: an expression, a tuple, an interval, a set."""
        if opening == r"\{" and self.accept(r"\}"):
            return ("seq", "{}", ())
        bars, self.bars = self.bars, 0
        if opening == r"\{" and (built := self.builder()) is not None:
            return built
        brackets = {r"\{": "{}", "{": ""}.get(opening, "()")
        value = self.items(brackets=brackets)
        pair = opening + self.take().text
        if pair not in _PAIRS:
            raise UnreadError
        self.bars = bars
        if value[:2] == ("seq", "()"):
            return ("seq", "()" if opening == r"\langle" else pair, value[2])
        plain = value[0] == "val" and not value[2] and not value[3]
        if pair == "()" and plain and self.accept("_"):
            return ex.sym(f"{ex.written(value[1])} base {self.index()}")
        if pair in ("()", "[]") and plain:
            return value[1]
        if pair not in ("()", r"\{\}", "{}"):
            raise UnreadError
        return value

    def builder(self) -> Expr | None:
        r"""\{x \mid 0 < x < 1\} after its first bracket; None if it is another set."""
        start = self.at
        variable = self.take()
        domain = ""
        if self.accept(r"\in"):
            domain = self.take().text[-1] if self.peek.kind == "set" else "?"
        if variable.kind != "letter" or domain == "?" or not self.accept(r"\mid", "|", ":"):
            self.at = start
            return None
        condition = self.items()
        self.expect(r"\}")
        return ("builder", variable.text, "" if domain == "R" else domain, condition)

    def plain(self, value: Expr) -> Expr:
        """The expression of a value without unit."""
        if value[0] == "val" and not value[2] and not value[3]:
            return value[1]
        return self.scalar(value)
