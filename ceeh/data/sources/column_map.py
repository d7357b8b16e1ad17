"""How a question is read from the row of a table.

A row that cannot be used is an error that names the row and the cure, never dropped in silence.
"""

import math
import re
import warnings
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ceeh.errors import ConfigError
from ceeh.runtime.rng import stable_hash
from ceeh.runtime.text import show
from ceeh.types import Question

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a table hold what; without `uid` it is a hash of question and answer.

    `answer_pattern` finds the answer inside its column: group 1 of the last match. `join_answers`
    joins a list of several by commas. `where` keeps the rows whose columns hold one of the values.
    `deduplicate` keeps the first of the questions whose texts differ in white space alone.
    """

    question: str
    answer: str
    uid: str | None = None
    metadata: tuple[str, ...] = ()
    answer_pattern: re.Pattern[str] | None = None
    join_answers: bool = False
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    deduplicate: bool = False

    @property
    def names(self) -> list[str]:
        uid = () if self.uid is None else (self.uid,)
        return list(dict.fromkeys((self.question, self.answer, *uid, *self.metadata, *self.where)))

    def questions(
        self, table: str, rows: Iterable[tuple[str, Row]]
    ) -> Generator[Question, None, int]:
        """One question per (place, row) of `table` that `where` keeps; returns the duplicates.

        Duplicates left out by `deduplicate` are counted in one warning at the end, and how many of
        them have another answer. Raises ConfigError for a missing column, a question or answer
        that is empty or not text, a uid that occurred before, and a table without rows.
        """
        places: dict[str, str] = {}
        firsts: dict[str, Question] = {}
        num_rows = num_duplicates = num_conflicts = 0
        for place, row in rows:
            num_rows += 1
            self._check_names(f"{table}, {place}", row)
            if any(row[name] not in values for name, values in self.where.items()):
                continue
            question = self._question(f"{table}, {place}", row)
            if self.deduplicate:
                first = firsts.setdefault(question.squeezed, question)
                if first is not question:
                    num_duplicates += 1
                    num_conflicts += first.answer != question.answer
                    continue
            if question.uid in places:
                what, cure = f"the uid '{question.uid}'", "give each row its own"
                if self.uid is None:
                    what = "the question and answer"
                    cure = "remove one, set deduplicate: true, or name a uid column"
                raise ConfigError(f"{table}, {place} has {what} of {places[question.uid]}; {cure}")
            places[question.uid] = place
            yield question
        if not num_rows:
            raise ConfigError(f"{table} has no rows; name a source with at least one question")
        if not places:
            raise ConfigError(f"{table}: none of {num_rows} rows has {_conditions(self.where)}")
        if num_duplicates:
            warnings.warn(
                f"{table}: left out {num_duplicates} of {num_rows} rows whose question came before;"
                f" {num_conflicts} of them give another answer than the first, which is kept",
                stacklevel=2,
            )
        return num_duplicates

    def _check_names(self, place: str, row: Row) -> None:
        for name in self.names:
            if name not in row:
                raise ConfigError(
                    f"{place} has no column '{name}'; it has: {', '.join(map(str, row)) or 'none'};"
                    " map the columns by init_args question, answer, uid, metadata, where"
                )

    def _question(self, place: str, row: Row) -> Question:
        text = row[self.question]
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(
                f"{place}: column '{self.question}' must hold the question as text,"
                f" got {show(text)}"
            )
        answer = self._answer(place, row[self.answer])
        if not _encodable(text) or not _encodable(answer):
            raise ConfigError(
                f"{place} has half a surrogate pair in its text; remove the character"
            )
        if self.uid is None:
            uid = stable_hash(f"{text}\0{answer}").hex()
        else:
            uid = "" if row[self.uid] is None else str(row[self.uid])
            if not uid:
                raise ConfigError(
                    f"{place} has no uid in column '{self.uid}'; fill it in, or leave init_args.uid"
                    " out to use a hash of question and answer"
                )
        metadata = {name: row[name] for name in self.metadata}
        if not all(_encodable(value) for value in metadata.values() if isinstance(value, str)):
            raise ConfigError(
                f"{place} has half a surrogate pair in its metadata; remove the character"
            )
        return Question(uid=uid, text=text, answer=answer, metadata=metadata)

    def _answer(self, place: str, value: Any) -> str:
        column = f"column '{self.answer}'"
        if isinstance(value, list) and len(value) > 1:
            if not self.join_answers:
                raise ConfigError(
                    f"{place}: {column} holds {len(value)} answers, {show(value)}; set join_answers:"
                    " true to ask for all of them, or keep such rows out by where"
                )
            return ", ".join(self._answer(place, item) for item in value)
        if isinstance(value, list) and value:
            value = value[0]
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            raise ConfigError(f"{place} has no answer in {column}; fill it in or remove the row")
        if isinstance(value, str):
            return _whole(self._found(place, value).strip())
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

    def _found(self, place: str, text: str) -> str:
        if self.answer_pattern is None:
            return text
        found = [match[1] for match in self.answer_pattern.finditer(text)]
        if not found or not (found[-1] or "").strip():
            raise ConfigError(
                f"{place}: column '{self.answer}' has no answer that answer_pattern"
                f" '{self.answer_pattern.pattern}' finds, got {show(text)}"
            )
        return found[-1]


def _whole(answer: str) -> str:
    """`27.0` is `27`: a column of integers that went through floats, as number or as text."""
    match = re.fullmatch(r"([+-]?\d+)\.0", answer, re.ASCII)
    return match[1] if match else answer


def _conditions(where: Mapping[str, tuple[Any, ...]]) -> str:
    return " and ".join(
        f"'{name}' in {', '.join(map(repr, values))}" for name, values in where.items()
    )


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
