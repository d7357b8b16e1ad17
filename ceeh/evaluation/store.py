"""An evaluation's samples on disk: one part per batch while it runs, samples.parquet at the end.

A part is written whole or not at all, so an interrupted evaluation continues with the next batch.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ceeh.errors import ConfigError, first_line
from ceeh.evaluation.responses import RESPONSE
from ceeh.evaluation.samples import SampleTable, answer_classes
from ceeh.run.atomic import atomic_write, atomic_write_text
from ceeh.run.places import EVALUATION, FILES, check_report_folder, claimed
from ceeh.runtime.text import flatten

SCHEMA = pa.schema(
    {"benchmark": pa.string()}
    | RESPONSE
    | {
        "score": pa.float64(),
        "correct": pa.bool_(),
        "outcome": pa.string(),
        "answer": pa.string(),  # canonical, null without one
        "entropy": pa.float64(),  # minus the mean log-prob of the sampled tokens, nats per token
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSamples:
    """The samples of one benchmark, with `uids` and `levels` (None without any) per question.

    `asked` is text and reference by uid, of those questions of which they are known.
    `responses` is the file with their texts (`ceeh.evaluation.responses`), which need not be there.
    """

    table: SampleTable
    uids: tuple[str, ...]
    levels: tuple[str, ...] | None
    outcomes: Mapping[str, int]
    responses: Path
    asked: Mapping[str, tuple[str, str]]


class SampleStore:
    """`<folder>/samples.parquet` and, until it is written, `<folder>/parts/<benchmark>/`.

    `<folder>/settings.json` records per benchmark what its samples depend on (`settings`, `model`)
    and which questions were left out (`skipped`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "samples.parquet"
        self._settings = folder / FILES[EVALUATION]

    def recorded(self) -> dict[str, Any]:
        """The records of settings.json for the benchmarks that have samples."""
        check_report_folder(self.folder, "--output:", EVALUATION)
        try:
            records = json.loads(self._settings.read_text()) if self._settings.is_file() else {}
        except ValueError as error:
            raise _foreign(self._settings, error) from error
        if not isinstance(records, dict):
            raise _foreign(self._settings, TypeError("it is not a mapping"))
        begun = {path.parent.name for path in (self.folder / "parts").glob("*/*.parquet")}
        there = self.finished() | begun
        return {name: record for name, record in records.items() if name in there}

    def open(self, wanted: Mapping[str, Mapping[str, Any]], held: ExitStack) -> None:
        """Prepares the folder for the benchmarks with the `wanted` records, claimed until `held` closes.

        Raises ConfigError when it holds samples of one of them with other settings, or samples of
        another model: a folder's results belong to one model. And for a damaged part, before hours of
        sampling that it would end.
        """
        self._kept(wanted)  # before anything is made
        self.folder.mkdir(parents=True, exist_ok=True)
        in_use = (
            f"--output: '{self.folder}' is in use by another evaluation; wait for its end, or give another "
            "folder"
        )
        held.enter_context(claimed(self.folder, in_use))
        records = self._kept(wanted) | dict(wanted)
        for benchmark in wanted:
            self._parts(benchmark)
        atomic_write_text(self._settings, json.dumps(records, indent=2) + "\n")

    def _kept(self, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The records of what is there, if `wanted` samples may join it; see `open`."""
        kept = self.recorded()
        model = {"model": next(iter(wanted.values()))["model"]}
        for benchmark, there in kept.items():
            now = wanted.get(benchmark, there | model)
            if there != now:
                one, other = flatten(there), flatten(now)
                what = "; ".join(
                    f"{name}: there {one.get(name)!r}, now {other.get(name)!r}"
                    for name in dict.fromkeys((*one, *other))
                    if one.get(name) != other.get(name)
                )
                raise ConfigError(
                    f"{self.folder} holds samples of {benchmark} that were drawn with other settings "
                    f"({what}); give another --output, or remove that folder"
                )
        return kept

    def finished(self) -> set[str]:
        """Benchmarks that samples.parquet holds."""
        if not self.file.is_file():
            return set()
        return set(_read(self.file, ["benchmark"])["benchmark"].unique().to_pylist())

    def has(self, benchmark: str, part: int) -> bool:
        return self._part(benchmark, part).is_file()

    def write(self, benchmark: str, part: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """One batch's rows, atomically."""
        path = self._part(benchmark, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), file)

    def finish(self, benchmarks: Sequence[str]) -> None:
        """Joins the parts into samples.parquet, in the order of `benchmarks`, then of the questions.

        Raises ConfigError for a part that was damaged meanwhile; the others stay.
        """
        done = self.finished()
        if set(benchmarks) <= done:
            return
        tables = [_read(self.file, SCHEMA.names)] if done else []
        for benchmark in benchmarks:
            if benchmark not in done:
                joined = pa.concat_tables(self._parts(benchmark))
                tables.append(joined.sort_by([("index", "ascending"), ("sample", "ascending")]))
        with atomic_write(self.file) as file:
            pq.write_table(pa.concat_tables(tables), file)
        for benchmark in benchmarks:  # the parts of others may belong to an unfinished evaluation
            shutil.rmtree(self.folder / "parts" / benchmark, ignore_errors=True)

    def read(self) -> Iterator[tuple[str, BenchmarkSamples]]:
        """Each benchmark of samples.parquet with its samples, in the file's order.

        Raises ConfigError for a file that an evaluation did not write.
        """
        table = _read(self.file, [name for name in SCHEMA.names if name != "response"])
        for benchmark in table["benchmark"].unique().to_pylist():
            rows = table.filter(pc.field("benchmark") == benchmark)
            try:
                samples = _samples(rows.to_pydict(), self.file)
            except (ValueError, TypeError, IndexError) as error:
                raise _foreign(self.file, error) from error
            yield benchmark, samples

    def _parts(self, benchmark: str) -> list[pa.Table]:
        """Raises ConfigError for a damaged one."""
        return [
            _read_part(file)
            for file in sorted((self.folder / "parts" / benchmark).glob("*.parquet"))
        ]

    def _part(self, benchmark: str, part: int) -> Path:
        return self.folder / "parts" / benchmark / f"{part:06d}.parquet"


def _read(file: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns)
    except (OSError, ValueError, KeyError) as error:
        raise _foreign(file, error) from error


def _read_part(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, columns=SCHEMA.names).cast(SCHEMA)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"'{file}' cannot be read as samples of an evaluation ({first_line(error)}); remove it and "
            "evaluate again: only what was in it is sampled again"
        ) from error


def _foreign(file: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{file} cannot be read as samples of an evaluation ({first_line(error)}); evaluate again into "
        "another --output, or remove that folder"
    )


def _samples(columns: Mapping[str, list], file: Path) -> BenchmarkSamples:
    samples = len(columns["index"]) // len(set(columns["index"]))
    grid = {
        name: [values[start : start + samples] for start in range(0, len(values), samples)]
        for name, values in columns.items()
    }
    table = SampleTable(
        index=torch.tensor([row[0] for row in grid["index"]]),
        correct=torch.tensor(grid["correct"]),
        lengths=torch.tensor(grid["tokens"]),
        finished=torch.tensor([[finish == "stop" for finish in row] for row in grid["finish"]]),
        answers=torch.tensor([answer_classes(row) for row in grid["answer"]]),
        entropy=torch.tensor(grid["entropy"], dtype=torch.float32),
    )
    levels = [row[0] for row in grid["level"]]
    outcomes = columns["outcome"]
    return BenchmarkSamples(
        table=table,
        uids=tuple(row[0] for row in grid["uid"]),
        levels=tuple("none" if level is None else level for level in levels)
        if any(level is not None for level in levels)
        else None,
        outcomes={name: outcomes.count(name) for name in sorted(set(outcomes))},
        responses=file,
        asked={
            uid[0]: (text[0], reference[0])
            for uid, text, reference in zip(
                *(grid[name] for name in ("uid", "question", "reference")), strict=True
            )
        },
    )
