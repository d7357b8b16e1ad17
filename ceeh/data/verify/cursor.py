"""A place in the tokens of an answer, with what all readers share."""

from abc import ABC, abstractmethod

from ceeh.data.verify.expressions import Expr, UnreadError, is_expr
from ceeh.data.verify.tokens import Token, spelling

END = Token("end", "")


class Cursor(ABC):
    """Readers move `at`; they raise UnreadError at a token that has no meaning there.

    The abstract methods are those that readers of units and macros need of the grammar above them.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    @property
    def peek(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def ahead(self, count: int = 1) -> Token:
        return self.tokens[self.at + count] if self.at + count < len(self.tokens) else END

    def take(self) -> Token:
        token = self.peek
        self.at += 1
        return token

    def accept(self, *texts: str) -> str:
        if self.peek.text in texts and self.peek is not END:
            return self.take().text
        return ""

    def expect(self, *texts: str) -> str:
        if not (found := self.accept(*texts)):
            raise UnreadError
        return found

    def raw_script(self) -> str:
        """A sub- or superscript as text."""
        if self.peek is END:
            raise UnreadError
        if self.peek.text != "{":
            return self.take().text
        depth, start = 0, self.at
        while True:
            if self.peek is END:
                raise UnreadError
            depth += {"{": 1, "}": -1}.get(self.take().text, 0)
            if depth == 0:
                return spelling(self.tokens[start + 1 : self.at - 1])

    def scalar(self, node: Expr) -> Expr:
        if not is_expr(node):
            raise UnreadError
        return node

    @abstractmethod
    def sum(self) -> Expr: ...

    @abstractmethod
    def power(self) -> Expr: ...

    @abstractmethod
    def primary(self, *, script: bool = False) -> Expr: ...

    @abstractmethod
    def script(self) -> Expr: ...

    @abstractmethod
    def items(self, *, brackets: str = "") -> Expr: ...
