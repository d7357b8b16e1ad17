"""The rows of a file of questions as (place, row): JSON, CSV or parquet, compressed or not.

A place is how a message names the row, `line 3` or `row 2`.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ceeh.data.sources.column_map import Row
from ceeh.errors import ConfigError
from ceeh.runtime.text import show

Rows = Iterator[tuple[str, Row]]
MAX_LINE_BYTES = 8 * 2**20
GZIP = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")


def kind(path: Path) -> str | None:
    """The suffix that says how a file is read, without that of a compression; None for others."""
    packed = path.suffix.lower() in COMPRESSIONS
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    return suffix if suffix in SUFFIXES and not (packed and suffix == ".parquet") else None


def file_rows(path: Path, names: Sequence[str]) -> Rows:
    """The rows of a file of a known `kind`, with the columns `names` at least where they exist."""
    if kind(path) == ".parquet":
        yield from parquet_rows(path, names)
        return
    try:
        with opened(path) as file:
            if kind(path) in (".csv", ".tsv"):
                yield from csv_rows(path, file, "\t" if kind(path) == ".tsv" else ",")
            else:
                yield from json_rows(path, file, names)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"'{path}' cannot be read ({reason}); check its permissions and that it is whole"
        ) from error


def opened(path: Path) -> io.BufferedReader:
    """The file's bytes, unpacked."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression=compression))  # type: ignore[type-var]


def json_rows(path: Path, file: io.BufferedReader, names: Sequence[str]) -> Rows:
    """JSON objects in UTF-8: one per line, an array of them, or pretty-printed one after the other.

    A file of one object that holds none of the columns, but one array of objects, is that array.
    """
    start = file.peek(1024)
    array = start.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"[")
    first: tuple[str, Any] | None = None
    rows = _documents(path, file.read()) if array else _lines(path, file)
    for number, (place, row) in enumerate(rows):
        if number == 0 and not array:
            first = place, row  # a row only if another follows, or it has a column
            continue
        if first is not None:
            yield _object(path, *first)
            first = None
        yield _object(path, place, row)
    if first is not None:
        wrapped = _wrapped(first[1], names)
        yield from (
            [_object(path, *first)]
            if wrapped is None
            else [_object(path, f"row {i}", row) for i, row in enumerate(wrapped)]
        )


def _object(path: Path, place: str, row: Any) -> tuple[str, Row]:
    if not isinstance(row, dict):
        raise ConfigError(
            f"{path}, {place} must be a JSON object with named columns, got {show(row)}"
        )
    return place, row


def _wrapped(row: Any, names: Sequence[str]) -> list[Any] | None:
    if not isinstance(row, dict) or any(name.partition(".")[0] in row for name in names):
        return None
    lists = [
        value
        for value in row.values()
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    ]
    return lists[0] if len(lists) == 1 else None


def _lines(path: Path, file: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    number, begun = 0, False
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        place = f"{path}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise ConfigError(
                f"{place} is longer than {MAX_LINE_BYTES / 2**20:.0f} MiB; write one JSON object per line,"
                " one question each"
            )
        text = ""
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            row = json.loads(text) if text else None
        except UnicodeDecodeError as error:
            packed = line.startswith(GZIP)
            cure = "it is compressed, name it .gz" if packed else "convert the file to UTF-8"
            raise ConfigError(f"{place} is not UTF-8; {cure}") from error
        except (ValueError, RecursionError) as error:
            if text == "{" and not begun:
                yield from _documents(path, line + file.read())
                return
            raise ConfigError(
                f"{place} is not valid JSON ({error}); write one JSON object per line"
            ) from error
        if text:
            begun = True
            yield f"line {number}", row


def _documents(path: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    """The objects of an array, or of several pretty-printed objects one after the other."""
    decoder = json.JSONDecoder()
    try:
        text = content.decode("utf-8-sig").strip()
        if text.startswith("["):
            rows = json.loads(text)
        else:
            rows = []
            while text:
                row, end = decoder.raw_decode(text)
                rows.append(row)
                text = text[end:].lstrip()
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(
            f"{path} is not JSON in UTF-8 ({error}); write one array of objects, or one object per line"
        ) from error
    for index, row in enumerate(rows):
        yield f"row {index}", row


def csv_rows(path: Path, file: io.BufferedReader, delimiter: str) -> Rows:
    """Rows below a line of column names. Every cell is text: 007 stays 007."""
    csv.field_size_limit(MAX_LINE_BYTES)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(
                    f"{path}, line {reader.line_num} has not as many cells as the first line has"
                    f" names, {len(reader.fieldnames or ())}; quote cells that hold the delimiter"
                )
            yield f"line {reader.line_num}", row
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}, after line {reader.line_num} is not UTF-8; convert the file to UTF-8"
        ) from error
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num} is not valid CSV ({error})") from error
    finally:
        text.detach()  # else it warns that it was not closed; the file belongs to the caller


def parquet_rows(path: Path, names: Sequence[str]) -> Rows:
    """The columns that hold `names`, or all of them if one is missing, for the error message."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow
            needed = roots(names, known.names)
            index = 0
            for batch in file.iter_batches(columns=needed):
                for row in exact_rows(batch):
                    yield f"row {index}", row
                    index += 1
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"cannot read '{path}' as parquet ({error})") from error


def roots(names: Sequence[str], known: Sequence[str]) -> list[str] | None:
    """The columns that hold `names`, of which `a.b` may be b within a; None where one is missing."""
    needed = [name if name in known else name.partition(".")[0] for name in names]
    return list(dict.fromkeys(needed)) if set(needed) <= set(known) else None


def exact_rows(batch: Any) -> Iterator[Row]:
    """The rows of an Arrow table; a float32 of 0.1 is 0.1, not 0.10000000149011612."""
    rows = batch.to_pylist()
    types = {item.name: item.type for item in batch.schema}
    short = [name for name, of in types.items() if "float" in str(of).replace("double", "")]
    for row in rows:
        yield row | {name: _shortest(row[name], types[name]) for name in short}


def _shortest(value: Any, of: Any) -> Any:
    """The shortest decimal number that rounds to a float16 or float32, also in lists and structs."""
    import numpy as np
    import pyarrow as pa

    if isinstance(value, float) and (pa.types.is_float32(of) or pa.types.is_float16(of)):
        return float(str(of.to_pandas_dtype()(value)))
    if isinstance(value, list):
        return [_shortest(item, of.value_type) for item in value]
    if isinstance(value, dict) and pa.types.is_struct(of):
        return {name: _shortest(item, of.field(name).type) for name, item in value.items()}
    return float(value) if isinstance(value, np.floating) else value
