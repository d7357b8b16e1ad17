"""A question, and how it is read from the row of a table.

A row that cannot be used is an error that names the row and the cure, never dropped in silence.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ceeh.component import ConfigError

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The user's message `text`, the reference `answer`, and what else is known of it.

    `uid` is stable across runs: the key of every table kept per question.
    """

    uid: str
    text: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a table hold what; without `uid` it is a hash of question and answer."""

    question: str
    answer: str
    uid: str | None
    metadata: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        uid = () if self.uid is None else (self.uid,)
        return list(dict.fromkeys((self.question, self.answer, *uid, *self.metadata)))

    def questions(self, table: str, rows: Iterable[tuple[str, Row]]) -> Iterator[Question]:
        """One question per (place, row) of `table`.

        Raises ConfigError for a missing column, a question or answer that is empty or not text, a
        uid that occurred before, and a table without rows.
        """
        places: dict[str, str] = {}
        for place, row in rows:
            question = self._question(f"{table}, {place}", row)
            if question.uid in places:
                cure = "give each row its own" if self.uid else "remove one, or name a uid column"
                what = f"the uid '{question.uid}'" if self.uid else "the question and answer"
                raise ConfigError(f"{table}, {place} has {what} of {places[question.uid]}; {cure}")
            places[question.uid] = place
            yield question
        if not places:
            raise ConfigError(f"{table} has no rows; name a source with at least one question")

    def _question(self, place: str, row: Row) -> Question:
        for name in self.names:
            if name not in row:
                raise ConfigError(
                    f"{place} has no column '{name}'; it has: {', '.join(map(str, row)) or 'none'};"
                    " map the columns by init_args question, answer, uid, metadata"
                )
        text = row[self.question]
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(
                f"{place}: column '{self.question}' must hold the question as text,"
                f" got {show(text)}"
            )
        answer = _answer(place, self.answer, row[self.answer])
        if not _encodable(text) or not _encodable(answer):
            raise ConfigError(
                f"{place} has half a surrogate pair in its text; remove the character"
            )
        if self.uid is None:
            digest = hashlib.blake2b(f"{text}\0{answer}".encode(), digest_size=8)
            uid = digest.hexdigest()
        else:
            uid = "" if row[self.uid] is None else str(row[self.uid])
            if not uid:
                raise ConfigError(
                    f"{place} has no uid in column '{self.uid}'; fill it in, or leave init_args.uid"
                    " out to use a hash of question and answer"
                )
        metadata = {name: row[name] for name in self.metadata}
        return Question(uid=uid, text=text, answer=answer, metadata=metadata)


def _answer(place: str, column: str, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ConfigError(
            f"{place} has no answer in column '{column}'; fill it in or remove the row"
        )
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(
            f"{place}: column '{column}' must hold the answer as text or a finite number,"
            f" got {show(value)}"
        )
    # A column of integers with a gap arrives as floats: 27.0 stands for 27.
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return str(int(value) if whole else value)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def show(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"
