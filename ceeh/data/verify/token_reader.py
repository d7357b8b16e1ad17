"""A place in the tokens of an answer: looking ahead, and taking the next one."""

from ceeh.data.verify.expressions import UnreadError
from ceeh.data.verify.tokens import Token, spelling
from ceeh.data.verify.words import STOPS, unit_named

END = Token("end", "")


class TokenReader:
    """A place `at` in the tokens of an answer.

    Readers move `at`; they raise UnreadError at a token that has no meaning there.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0

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
