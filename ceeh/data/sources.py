"""Where questions come from: JSONL files, Hugging Face data sets, the starter task.

A source is an iterable of `Question`, chosen by `class_path`. A user's own source is any class
whose instances yield them.
"""

import hashlib
import json
import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from ceeh.component import ConfigError
from ceeh.data.questions import Columns, Question, Row, show
from ceeh.starter.task import (
    LEVELS,
    MODULUS,
    MULTIPLICATIONS,
    ONE_DIGIT,
    TWO_DIGITS,
    Chain,
    sample_chain,
)

Split = Literal["train", "held_out"]
HELD_OUT_ONE_IN = 5


class Jsonl:
    """One JSON object per line, UTF-8; blank lines are skipped."""

    def __init__(
        self,
        path: str,
        question: str = "question",
        answer: str = "answer",
        uid: str | None = None,
        metadata: Sequence[str] = (),
    ) -> None:
        self.path = Path(path).expanduser()
        self.columns = Columns(question=question, answer=answer, uid=uid, metadata=tuple(metadata))
        if self.path.is_dir():
            raise ConfigError(
                f"'{path}' is a folder, not a file; folders are read by"
                " ceeh.data.sources.HubDataset"
            )
        if not self.path.is_file():
            raise ConfigError(f"no file '{path}'; paths are relative to {Path.cwd()}")

    def __iter__(self) -> Iterator[Question]:
        return self.columns.questions(str(self.path), self._rows())

    def _rows(self) -> Iterator[tuple[str, Row]]:
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                place = f"line {number}"
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    row = json.loads(text) if text else {}
                except UnicodeDecodeError as error:
                    raise ConfigError(
                        f"{self.path}, {place} is not UTF-8; convert the file to UTF-8"
                    ) from error
                except (ValueError, RecursionError) as error:
                    raise ConfigError(
                        f"{self.path}, {place} is not valid JSON ({error}); write one JSON"
                        " object per line"
                    ) from error
                if not isinstance(row, dict):
                    raise ConfigError(
                        f"{self.path}, {place} must be a JSON object with named columns,"
                        f" got {show(row)}"
                    )
                if text:
                    yield place, row


class HubDataset:
    """A Hugging Face data set: an id on the hub, or a local folder laid out like one.

    `limit` keeps the first rows. With `streaming` only those are fetched, so it must be given: the
    order of training prompts is drawn over a finite set. Code shipped with a data set is never run.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str | None = None,
        question: str = "question",
        answer: str = "answer",
        uid: str | None = None,
        streaming: bool = False,
        limit: int | None = None,
        metadata: Sequence[str] = (),
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, got {limit}")
        if streaming and limit is None:
            raise ConfigError(
                "streaming: true needs limit, the number of first rows to take, for training draws"
                " without replacement from a finite set; set limit, or streaming: false"
            )
        self.path, self.split, self.name = path, split, name
        self.streaming, self.limit = streaming, limit
        self.columns = Columns(question=question, answer=answer, uid=uid, metadata=tuple(metadata))
        self.table = f"'{path}' (split {split})"

    def __iter__(self) -> Iterator[Question]:
        return self.columns.questions(self.table, self._rows())

    def _rows(self) -> Iterator[tuple[str, Row]]:
        # Two seconds that a run on other sources need not spend.
        import datasets
        from datasets.exceptions import DatasetsError

        local = Path(self.path).expanduser()
        try:
            data = datasets.load_dataset(
                str(local) if local.exists() else self.path,
                name=self.name,
                split=self.split,
                streaming=self.streaming,
            )
            wanted = [name for name in self.columns.names if name in (data.column_names or ())]
            # Other columns (worked solutions, images) can be a hundred times the size; when one is
            # missing all are kept, for the message that lists them.
            if len(wanted) == len(self.columns.names):
                data = data.select_columns(wanted)
            for index, row in enumerate(islice(data, self.limit)):
                yield f"row {index}", row
        except (OSError, ValueError, DatasetsError) as error:
            if isinstance(error, ConnectionError):
                raise ConfigError(
                    f"cannot reach the data set {self.table} on the hub ({error}); check the id and"
                    " the network, or give path: a local folder with its files, or a file to"
                    " ceeh.data.sources.Jsonl"
                ) from error
            raise ConfigError(
                f"cannot load the data set {self.table} ({error}); check path, name and split"
            ) from error


class StarterTask:
    """`questions` distinct chains of the starter task, its levels in turn, drawn from `seed`.

    A chain belongs to the held-out split by a hash of its text (one in five), whatever the seed:
    the splits of any two runs are disjoint. `levels` is a range "1-8", one level, or a list.
    """

    def __init__(
        self,
        questions: int,
        seed: int = 0,
        split: str = "train",
        levels: str | int | Sequence[int] = "1-8",
    ) -> None:
        if questions < 1:
            raise ConfigError(f"questions must be at least 1, got {questions}")
        if split not in get_args(Split):
            raise ConfigError(f"split must be one of {', '.join(get_args(Split))}, got '{split}'")
        self.num_questions, self.seed, self.split = questions, seed, split
        self.levels = _levels(levels)
        for index, level in enumerate(self.levels):
            wanted = len(range(index, questions, len(self.levels)))
            share = (
                HELD_OUT_ONE_IN if split == "held_out" else HELD_OUT_ONE_IN / (HELD_OUT_ONE_IN - 1)
            )
            # Drawing the last tenth by chance would take longer than all the rest.
            available = int(0.9 * num_chains(level) / share)
            if wanted > available:
                raise ConfigError(
                    f"questions: {questions} asks for {wanted} of level {level}, which has about"
                    f" {available} in the split '{split}'; lower questions or add levels"
                )

    def __len__(self) -> int:
        return self.num_questions

    def __iter__(self) -> Iterator[Question]:
        rng = random.Random(f"starter/{self.split}/{self.seed}")
        seen: set[str] = set()
        while len(seen) < self.num_questions:
            level = self.levels[len(seen) % len(self.levels)]
            chain = sample_chain(rng, level)
            if chain.text in seen or starter_split(chain) != self.split:
                continue
            seen.add(chain.text)
            yield Question(
                uid=f"starter-{chain.text}",
                text=f"{chain.text}?",
                answer=f"{chain.answer:02d}",
                metadata={"level": level},
            )


def starter_split(chain: Chain) -> Split:
    """The split a chain belongs to, by a hash of its text alone."""
    digest = hashlib.blake2b(chain.text.encode(), digest_size=8).digest()
    return "held_out" if int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0 else "train"


def num_chains(level: int) -> int:
    """Distinct chains of a level: starts, places of the multiplications, operands, the rest +-1-9."""
    by_one, by_two = MULTIPLICATIONS[level]
    places = math.comb(level, by_one) * math.comb(level - by_one, by_two)
    operands = len(ONE_DIGIT) ** by_one * len(TWO_DIGITS) ** by_two
    return MODULUS * places * operands * 18 ** (level - by_one - by_two)


def _levels(levels: str | int | Sequence[int]) -> list[int]:
    wanted: list[Any]
    if isinstance(levels, str):
        first, _, last = levels.partition("-")
        ends = [int(end) for end in (first, last or first) if end.strip().isdecimal()]
        wanted = list(range(ends[0], ends[1] + 1)) if len(ends) == 2 else []
    else:
        wanted = [levels] if isinstance(levels, int) else list(levels)
    if not wanted or len(set(wanted)) < len(wanted) or any(level not in LEVELS for level in wanted):
        raise ConfigError(
            f"levels must be distinct levels from {LEVELS[0]} to {LEVELS[-1]}, as '1-8' or [1, 2],"
            f" got {levels!r}"
        )
    return wanted
