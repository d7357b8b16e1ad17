"""The rows of a table wherever it lies: JSON, parquet, a folder, the Hugging Face hub.

Each reader yields (place, row); a place is what a message calls the row.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ceeh.data.sources.column_map import Row
from ceeh.errors import ConfigError
from ceeh.runtime.text import show

Rows = Iterator[tuple[str, Row]]
SECONDS_TO_REACH_THE_HUB = 10
MAX_LINE_BYTES = 8 * 2**20
GZIP = b"\x1f\x8b"


def json_rows(path: Path) -> Rows:
    """One JSON object per line, UTF-8, blank lines skipped; a `.json` file may be one array of them."""
    if path.suffix.lower() == ".json" and _starts_an_array(path):
        yield from _array(path)
        return
    with _opened(path) as lines:
        for number, line in enumerate(_lines(path, lines), 1):
            place = f"line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = json.loads(text) if text else {}
            except UnicodeDecodeError as error:
                what = (
                    "is compressed; unpack it"
                    if line.startswith(GZIP)
                    else "convert the file to UTF-8"
                )
                raise ConfigError(f"{path}, {place} is not UTF-8; {what}") from error
            except (ValueError, RecursionError) as error:
                raise ConfigError(
                    f"{path}, {place} is not valid JSON ({error}); write one JSON object per line"
                ) from error
            if text:
                yield place, _checked(f"{path}, {place}", row)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Raises ConfigError for a file that cannot be opened or read."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error.strerror}); check its permissions"
        ) from error


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Raises ConfigError for a line that no row has: a whole file on one, or no text."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ConfigError(
                f"{path}, line {number} is longer than {MAX_LINE_BYTES / 2**20:.0f} MiB; write one JSON "
                "object per line, a question each"
            )
        yield line


def _starts_an_array(path: Path) -> bool:
    with _opened(path) as file:
        return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _array(path: Path) -> Rows:
    try:
        with _opened(path) as file:
            rows = json.loads(file.read().decode("utf-8-sig"))
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(
            f"{path} is not a JSON array in UTF-8 ({error}); write one array of objects, or one"
            " object per line"
        ) from error
    for index, row in enumerate(rows):
        yield f"row {index}", _checked(f"{path}, row {index}", row)


def _checked(place: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise ConfigError(f"{place} must be a JSON object with named columns, got {show(row)}")
    return row


def parquet_rows(path: Path, names: Sequence[str]) -> Rows:
    """The columns `names` of a parquet file, or all when one is missing, for the message."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            there = set(names) <= set(file.schema_arrow.names)
            index = 0
            for batch in file.iter_batches(columns=list(names) if there else None):
                for row in batch.to_pylist():
                    yield f"row {index}", row
                    index += 1
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"cannot read '{path}' as parquet ({error})") from error


def dataset_rows(
    path: str, *, split: str, name: str | None, streaming: bool, names: Sequence[str]
) -> Rows:
    """A data set on the hub, or a folder of files; code shipped with a data set is never run."""
    # Two seconds that a run on other sources need not spend.
    import datasets
    from datasets.exceptions import DatasetsError

    table = f"'{path}' (split {split})"
    local = Path(path).expanduser()
    if not local.exists():
        _reach_hub(path)
    try:
        # A folder without configurations has none to choose from, as a single file.
        if local.exists() and datasets.get_dataset_config_names(str(local)) == ["default"]:
            name = None
        data = datasets.load_dataset(
            str(local) if local.exists() else path, name=name, split=split, streaming=streaming
        )
        # Other columns (worked solutions, images) can be a hundred times the size; when one is
        # missing all are kept, for the message that lists them.
        if set(names) <= set(data.column_names or ()):
            data = data.select_columns(list(names))
        for index, row in enumerate(data):
            yield f"row {index}", row
    except (OSError, ValueError, DatasetsError) as error:
        if isinstance(error, ConnectionError):
            raise _unreachable(path, error) from error
        raise ConfigError(
            f"cannot load the data set {table} ({error}); check path, name and split"
        ) from error


def _reach_hub(path: str) -> None:
    """Asks the hub once: `datasets` would try for half a minute, and misspelt ids as long."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        HfApi().dataset_info(path, timeout=SECONDS_TO_REACH_THE_HUB)
    except OfflineModeIsEnabled:
        return  # the cache may have it
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ConfigError(
            f"no data set '{path}' on the hub that you may read, and no such file or folder here;"
            " check the id, or log in (hf auth login) if it is private or gated"
        ) from error
    except Exception as error:  # the hub's client has changed its transport and its errors before
        raise _unreachable(path, error) from error


def _unreachable(path: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"cannot reach the data set '{path}' on the hub ({error}); check the network, set"
        " HF_HUB_OFFLINE=1 if it is in the cache, or give the path of a local copy: a .jsonl, .json"
        " or .parquet file, or a folder"
    )
