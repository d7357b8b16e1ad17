"""Where questions come from: tables of any kind, and the starter task.

A source is an iterable of `Question`, chosen by `class_path`. A user's own source is any class
whose instances yield them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ceeh.data.sources.column_map import Columns
from ceeh.data.sources.readers import Rows, dataset_rows, json_rows, parquet_rows
from ceeh.errors import ConfigError
from ceeh.types import Question

JSON, PARQUET = (".jsonl", ".json"), (".parquet",)


class Table:
    """A table of questions: a file, a folder of files, or a Hugging Face data set, read alike.

    `path` is a `.jsonl`, `.json` or `.parquet` file, a folder that holds such files or is laid out
    like a data set, or an id on the hub. `split` and `name` (of a configuration) choose within a
    folder or data set; a single file has neither, and ignores them.

    `question`, `answer`, `uid` and `metadata` name columns; without `uid` it is a hash of question
    and answer. `answer_pattern` is a regular expression whose group 1 (of the last match) is the
    answer within its column. `join_answers` joins lists of several answers by commas. `where` maps
    a column to the value, or list of values, of the rows to keep. `deduplicate` keeps the first of
    equal question texts, with a warning that counts the others (`num_duplicates`, of the last reading).

    `limit` keeps the first rows of the table, before `where`. With `streaming` only those are
    fetched, so it must be given: the order of training prompts is drawn over a finite set.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str | None = None,
        question: str = "question",
        answer: str = "answer",
        uid: str | None = None,
        metadata: Sequence[str] = (),
        limit: int | None = None,
        streaming: bool = False,
        answer_pattern: str | None = None,
        join_answers: bool = False,
        where: Mapping[str, Any] | None = None,
        deduplicate: bool = False,
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, got {limit}")
        if streaming and limit is None:
            raise ConfigError(
                "streaming: true needs limit, the number of first rows to take, for training draws"
                " without replacement from a finite set; set limit, or streaming: false"
            )
        self.path, self.split, self.name = path, split, name
        self.limit, self.streaming = limit, streaming
        self.columns = Columns(
            question=question,
            answer=answer,
            uid=uid,
            metadata=_names("metadata", metadata),
            answer_pattern=_pattern(answer_pattern),
            join_answers=join_answers,
            where={
                column: tuple(value) if isinstance(value, list | tuple) else (value,)
                for column, value in (where or {}).items()
            },
            deduplicate=deduplicate,
        )
        self.file = _file(path)
        self.table = str(self.file) if self.file else f"'{path}' (split {split})"
        self.num_duplicates = 0

    def __iter__(self) -> Iterator[Question]:
        rows = islice(self._rows(), self.limit)
        self.num_duplicates = yield from self.columns.questions(self.table, rows)

    def _rows(self) -> Rows:
        if self.file is None:
            return dataset_rows(
                self.path,
                split=self.split,
                name=self.name,
                streaming=self.streaming,
                names=self.columns.names,
            )
        if self.file.suffix.lower() in PARQUET:
            return parquet_rows(self.file, self.columns.names)
        return json_rows(self.file)


def _file(path: str) -> Path | None:
    """The single file that `path` names; None for a folder or an id on the hub."""
    local = Path(path).expanduser()
    kinds = JSON + PARQUET
    if local.is_dir():
        return None
    if local.is_file():
        if local.suffix.lower() not in kinds:
            raise ConfigError(f"'{path}' must be a file of {', '.join(kinds)}, or a folder of them")
        return local
    like_a_path = path.startswith((".", "/", "~")) or path.count("/") > 1
    if like_a_path or local.suffix.lower() in kinds:
        raise ConfigError(f"no file or folder '{path}'; paths are relative to {Path.cwd()}")
    return None


def _names(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigError(f"{argument} must be a list of columns, got '{names}'; write [{names}]")
    return tuple(names)


def _pattern(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"answer_pattern '{pattern}' is not a regular expression ({error})"
        ) from error
    if not compiled.groups:
        raise ConfigError(f"answer_pattern '{pattern}' must have a group (...) around the answer")
    return compiled
