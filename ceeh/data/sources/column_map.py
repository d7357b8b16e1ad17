"""How a row of a table becomes a question.

A row that cannot be used raises an error that names the row and the cure; no row is dropped silently.
"""

import math
import re
import warnings
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from ceeh.errors import ConfigError
from ceeh.runtime.rng import stable_hash
from ceeh.runtime.text import show
from ceeh.types import Demonstration, Question

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a table and which rows to keep; `ceeh.data.sources.Table` documents each field."""

    question: str
    answer: str
    uid: str | None = None
    response: str | None = None
    metadata: tuple[str, ...] = ()
    answer_pattern: re.Pattern[str] | None = None
    join_answers: bool = False
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    deduplicate: bool = False

    @property
    def names(self) -> list[str]:
        named = (name for name in (self.uid, self.response) if name is not None)
        return list(
            dict.fromkeys((self.question, self.answer, *named, *self.metadata, *self.where))
        )

    def questions(
        self, table: str, rows: Iterable[tuple[str, Row]]
    ) -> Generator[Question, None, int]:
        """One question per (place, row) of `table` that `where` keeps; returns the number of duplicates.

        One warning counts the duplicates that `deduplicate` drops, and those with a different answer.
        Raises ConfigError for a missing column, a question or answer that is empty or not text, a
        repeated uid, and a table without rows.
        """
        places: dict[str, str] = {}
        firsts: dict[str, Question] = {}
        num_rows = num_duplicates = num_conflicts = 0
        for place, row in rows:
            num_rows += 1
            question = self._question(f"{table}, {place}", row)
            if question is None:
                continue
            if self.deduplicate:
                first = firsts.setdefault(question.squeezed, question)
                if first is not question:
                    num_duplicates += 1
                    num_conflicts += first.answer != question.answer
                    continue
            if question.uid in places:
                what, cure = f"the uid '{question.uid}'", "give each row a unique uid"
                if self.uid is None:
                    what = "the question and answer"
                    cure = "remove one, set deduplicate: true, or name a uid column"
                raise ConfigError(f"{table}, {place} has {what} of {places[question.uid]}; {cure}")
            places[question.uid] = place
            yield question
        if not num_rows:
            raise ConfigError(f"{table} has no rows; name a source with at least one question")
        if not places:
            conditions = " and ".join(
                f"'{name}' in {', '.join(map(repr, values))}" for name, values in self.where.items()
            )
            raise ConfigError(f"{table}: none of {num_rows} rows has {conditions}; change where")
        if num_duplicates:
            warnings.warn(
                f"{table}: dropped {num_duplicates} of {num_rows} rows that repeat an earlier question;"
                f" {num_conflicts} of them have a different answer than the first row, which is kept",
                stacklevel=2,
            )
        return num_duplicates

    def _question(self, place: str, given: Row) -> Question | None:
        """The question of a row, None where `where` leaves it out."""
        row = {}
        for name in self.names:
            try:
                row[name] = cell(given, name)
            except KeyError as error:
                raise ConfigError(
                    f"{place} has no column '{name}'; it has: {', '.join(columns(given)) or 'none'};"
                    " map the columns with init_args question, answer, uid, metadata, where"
                ) from error
        if any(row[name] not in values for name, values in self.where.items()):
            return None
        text, messages = row[self.question], ()
        if isinstance(text, list) and text:
            messages = self._messages(place, text)
            text = "\n\n".join(content for role, content in messages if role != "system")
            if len(messages) == 1:
                messages = ()
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(
                f"{place}: column '{self.question}' must hold the question as text or as messages"
                f" with role and content, got {show(text)}"
            )
        answer = self._answer(place, row[self.answer])
        uid = None if self.uid is None else row[self.uid]
        if self.uid is not None and uid in (None, ""):
            raise ConfigError(
                f"{place} has no uid in column '{self.uid}'; fill it in, or remove init_args.uid"
                " to use a hash of question and answer"
            )
        metadata = {name: row[name] for name in self.metadata}
        for what, value in (
            ("text", text),
            ("answer", answer),
            *(("metadata", v) for v in metadata.values()),
        ):
            if isinstance(value, str) and not encodable(value):
                raise ConfigError(
                    f"{place} has half a surrogate pair in its {what}; remove the character"
                )
        if self.uid is None:
            whole = f"{text}\0{answer}" + (f"\0{messages}" if messages else "")
            uid = stable_hash(whole).hex()
        fields: dict[str, Any] = {
            "uid": str(uid),
            "text": text,
            "answer": answer,
            "metadata": metadata,
            "messages": messages,
        }
        if self.response is None:
            return Question(**fields)
        response = row[self.response]
        if not isinstance(response, str) or not response.strip() or not encodable(response):
            raise ConfigError(
                f"{place}: column '{self.response}' must hold the response as text, got "
                f"{show(response)}"
            )
        return Demonstration(**fields, response=response)

    def _messages(self, place: str, given: list[Any]) -> tuple[tuple[str, str], ...]:
        """(role, content) of messages as chat templates take them; content is text or parts of text."""
        messages = []
        for message in given:
            role, content = (
                (message.get("role"), message.get("content"))
                if isinstance(message, Mapping)
                else (None, None)
            )
            if isinstance(content, list):
                parts = [
                    part.get("text") if isinstance(part, Mapping) else None for part in content
                ]
                texts = [part for part in parts if isinstance(part, str)]
                content = "".join(texts) if len(texts) == len(parts) else None
            if not isinstance(role, str) or not isinstance(content, str):
                raise ConfigError(
                    f"{place}: column '{self.question}' must hold the question as text or as messages"
                    f" with role and content, got {show(message)}"
                )
            messages.append((role, content))
        if messages[-1][0] != "user":
            raise ConfigError(
                f"{place}: the messages in column '{self.question}' must end with the user's, got one of"
                f" '{messages[-1][0]}'; name the column that holds the prompt alone"
            )
        return tuple(messages)

    def _answer(self, place: str, value: Any) -> str:
        """An answer cell as text: a text, a finite number, or a list of them."""
        column = f"column '{self.answer}'"
        if isinstance(value, list) and len(value) > 1:
            if not self.join_answers:
                raise ConfigError(
                    f"{place}: {column} holds {len(value)} answers, {show(value)}; set join_answers:"
                    " true to require all of them, or filter such rows with where"
                )
            return ", ".join(self._answer(place, item) for item in value)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, Decimal):
            value = f"{value:f}"
        elif isinstance(value, date):  # also a datetime, as which `datasets` reads a date in JSON
            if isinstance(value, datetime) and value.time() == time():
                value = value.date()
            value = value.isoformat()
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            raise ConfigError(f"{place} has no answer in {column}; fill it in or remove the row")
        if isinstance(value, str):
            if self.answer_pattern is not None:
                found = [match[1] or "" for match in self.answer_pattern.finditer(value)]
                if not found or not found[-1].strip():
                    raise ConfigError(
                        f"{place}: answer_pattern '{self.answer_pattern.pattern}' finds no answer in"
                        f" {column}, got {show(value)}"
                    )
                value = found[-1]
            # Integers that went through floats, as a number below or as text here: 27.0 is 27.
            whole = re.fullmatch(r"([+-]?\d+)\.0", value.strip(), re.ASCII)
            return whole[1] if whole else value.strip()
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ConfigError(
                f"{place}: {column} must hold the answer as text or a finite number,"
                f" got {show(value)}"
            )
        exact = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
        return str(int(value) if exact else value)


def cell(row: Row, name: str) -> Any:
    """The value of a column; `a.b` is also the value b within column a. Raises KeyError without one."""
    if name in row:
        return row[name]
    first, dot, rest = name.partition(".")
    if not dot or not isinstance(row.get(first), Mapping):
        raise KeyError(name)
    return cell(row[first], rest)


def columns(row: Row) -> list[str]:
    """The names that `cell` knows."""
    return [
        name
        for key, value in row.items()
        for name in (
            [f"{key}.{inner}" for inner in columns(value)]
            if isinstance(value, Mapping) and value
            else [str(key)]
        )
    ]


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold `text`: it has no half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
