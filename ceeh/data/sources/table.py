"""Tables of questions: a file, a folder, or a data set on the hub.

A source is an iterable of `Question`, chosen by `class_path`. A custom source is any class whose
instances yield them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ceeh.data.sources.column_map import Columns
from ceeh.data.sources.readers import dataset_rows, json_rows, parquet_rows
from ceeh.errors import ConfigError
from ceeh.types import Question

SUFFIXES = (".jsonl", ".json", ".parquet")


class Table:
    """A table of questions: a file, a folder of files, or a Hugging Face data set, all read alike.

    `path` is a `.jsonl`, `.json` or `.parquet` file, a folder of such files or laid out like a data
    set, or an id on the hub. `split` and `name` (the configuration) choose within a folder or data
    set; a single file ignores them.

    `question`, `answer`, `uid` and `metadata` name columns; without `uid` the uid is a hash of question
    and answer. `response` names the column of worked responses, which supervised training (ceeh.sft) learns.
    `answer_pattern` is a regular expression whose group 1 (of the last match) is the
    answer within its column. `join_answers` joins lists of several answers with commas. `where` maps
    a column to the value, or list of values, of the rows to keep. `deduplicate` keeps the first of
    equal question texts and warns with the count of the others (`num_duplicates` after a read).

    `limit` keeps the first rows of the table, before `where`. `streaming` fetches only those and
    therefore needs `limit`: the order of training prompts is drawn over a finite set.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str | None = None,
        question: str = "question",
        answer: str = "answer",
        uid: str | None = None,
        response: str | None = None,
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
                "streaming: true needs limit, the number of first rows to take, because training draws"
                " without replacement from a finite set; set limit, or streaming: false"
            )
        if isinstance(metadata, str):
            raise ConfigError(
                f"metadata must be a list of columns, got '{metadata}'; write [{metadata}]"
            )
        self.path, self.split, self.name = path, split, name
        self.limit, self.streaming = limit, streaming
        self.columns = Columns(
            question=question,
            answer=answer,
            uid=uid,
            response=response,
            metadata=tuple(metadata),
            answer_pattern=_pattern(answer_pattern),
            join_answers=join_answers,
            where={
                column: tuple(value) if isinstance(value, list | tuple) else (value,)
                for column, value in (where or {}).items()
            },
            deduplicate=deduplicate,
        )
        self.file = _file(path)
        self.num_duplicates = 0

    def __iter__(self) -> Iterator[Question]:
        table, names = str(self.file), self.columns.names
        if self.file is None:
            table = f"'{self.path}' (split {self.split})"
            rows = dataset_rows(
                self.path, split=self.split, name=self.name, streaming=self.streaming, names=names
            )
        elif self.file.suffix.lower() == ".parquet":
            rows = parquet_rows(self.file, names)
        else:
            rows = json_rows(self.file)
        self.num_duplicates = yield from self.columns.questions(table, islice(rows, self.limit))


def _file(path: str) -> Path | None:
    """The single file that `path` names; None for a folder or an id on the hub."""
    local = Path(path).expanduser()
    readable = local.suffix.lower() in SUFFIXES
    if local.is_file():
        if not readable:
            raise ConfigError(f"'{path}' must be a {', '.join(SUFFIXES)} file, or a folder of them")
        return local
    like_a_path = path.startswith((".", "/", "~")) or path.count("/") > 1
    if not local.is_dir() and (like_a_path or readable):
        raise ConfigError(f"no file or folder '{path}'; paths are relative to {Path.cwd()}")
    return None


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
