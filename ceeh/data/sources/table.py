"""Tables of questions: a file, a folder, or a data set on the hub.

A source is an iterable of `Question`, chosen by `class_path`. A custom source is any class whose
instances yield them.
"""

from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from ceeh.data.sources.column_map import Columns
from ceeh.data.sources.hub import dataset_rows
from ceeh.data.sources.readers import COMPRESSIONS, SUFFIXES, Rows, file_rows, kind
from ceeh.errors import ConfigError
from ceeh.runtime.paths import expanded
from ceeh.runtime.text import pattern_with_group
from ceeh.types import Question


class Table:
    """A table of questions: files, a folder of files, or a Hugging Face data set, all read alike.

    `path` is a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file (the texts also as `.gz`, `.zst`,
    `.bz2` or `.lz4`), a pattern of such files (`data/*.jsonl`), a folder of them or laid out like a data
    set, a folder of `save_to_disk`, or an id on the hub. `split` and `name` (the configuration) choose
    within a folder or data set; files ignore them.

    `question`, `answer`, `uid` and `metadata` name columns, `a.b` what is under b in column a; without
    `uid` the uid is a hash of question and answer. The question is text, or a list of messages with
    role and content that ends with the user's. `response` names the column of the response, which
    supervised training (ceeh.sft) learns. `answer_pattern` is a regular expression whose group 1 (of
    the last match) is the answer within its column. `join_answers` joins lists of several answers
    with commas. `where` maps a column to the value, or list of values, of the rows to keep.
    `deduplicate` keeps the first of equal question texts and warns with the count of the others
    (`num_duplicates` after a read).

    `limit` keeps the first rows of the table, before `where`. `streaming` fetches only those from the
    hub, and keeps no copy on this machine.
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
            answer_pattern=None
            if answer_pattern is None
            else pattern_with_group(answer_pattern, "answer_pattern"),
            join_answers=join_answers,
            where={
                column: tuple(value) if isinstance(value, list | tuple) else (value,)
                for column, value in (where or {}).items()
            },
            deduplicate=deduplicate,
        )
        self.files = local_files(path)
        self.num_duplicates = 0

    def __iter__(self) -> Iterator[Question]:
        table, rows = ", ".join(map(str, self.files)), self._file_rows()
        if not self.files:
            table = f"'{self.path}' (split {self.split})"
            rows = dataset_rows(
                self.path,
                split=self.split,
                name=self.name,
                streaming=self.streaming,
                names=self.columns.names,
            )
        elif len(self.files) > 1:
            table = f"'{self.path}'"
        self.num_duplicates = yield from self.columns.questions(table, islice(rows, self.limit))

    def _file_rows(self) -> Rows:
        for file in self.files:
            prefix = f"{file}, " if len(self.files) > 1 else ""
            for place, row in file_rows(file, self.columns.names):
                yield f"{prefix}{place}", row


def local_files(path: str) -> list[Path]:
    """The files that `path` names, one or those of a pattern; none for a folder or an id on the hub."""
    local = expanded(path)
    if local.is_dir():
        return []
    if local.exists() or not set("*?[") & set(path):
        files = [local]
    else:
        files = sorted(map(Path, glob(str(local), recursive=True)))
        files = [file for file in files if file.is_file()]
        if not files:
            raise ConfigError(f"no file matches '{path}'; patterns are relative to {Path.cwd()}")
    for file in files:
        if file.exists() and not (file.is_file() and kind(file)):
            raise ConfigError(
                f"'{file}' must be a {', '.join(SUFFIXES)} file, or a folder of them; the texts may be"
                f" compressed ({', '.join(COMPRESSIONS)})"
            )
    if files[0].exists():
        return files
    like_a_path = path.startswith((".", "/", "~")) or path.count("/") > 1
    if like_a_path or kind(local):
        place = local if path.startswith("~") else path
        raise ConfigError(f"no file or folder '{place}'; paths are relative to {Path.cwd()}")
    return []
