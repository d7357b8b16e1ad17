"""Reads units and words: what is on a closed list, or a sentence of its own."""

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.cursor import END, Cursor
from ceeh.data.verify.expressions import Expr, UnreadError
from ceeh.data.verify.tokens import SHORT_WORDS, folded
from ceeh.data.verify.units import POWERS_AFTER, POWERS_BEFORE, unit_named, unit_text
from ceeh.data.verify.words import LINKS, STOPS, is_mathematical

_ALL_REALS = ("all real numbers", "all reals", "all real", "real numbers")


class UnitReader(Cursor):
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
            if token.text.lower() in POWERS_BEFORE and self.unit_at(1):
                before = POWERS_BEFORE[self.take().text.lower()]
            named = self.unit_at(0, plain=bool(powers) and sign < 0)
            if not named:
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

    def unit_at(self, count: int, *, plain: bool = False) -> str | None:
        r"""The unit `count` tokens ahead; a single letter outside of \text{} only where `plain`."""
        token = self.ahead(count)
        if token.text == r"\$":
            return "$"
        if token.kind not in ("word", "letter") or token.text in STOPS:
            return None
        in_text = plain or (token.font == "text" and token.text not in ("e", "i"))
        before = self.tokens[self.at + count - 1] if self.at + count else END
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
        self.at += count
        text = " ".join(folded(t.text) for t in tokens)
        return ("set", "R") if text in _ALL_REALS else ("words", text)
