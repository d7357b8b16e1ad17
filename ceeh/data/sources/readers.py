"""The rows of a table as (place, row): JSON, parquet, a folder, or the Hugging Face hub.

A place is how a message names the row, `line 3` or `row 2`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ceeh.data.sources.column_map import Row
from ceeh.errors import ConfigError
from ceeh.runtime.text import show

Rows = Iterator[tuple[str, Row]]
HUB_TIMEOUT_SECONDS = 10
MAX_LINE_BYTES = 8 * 2**20
GZIP = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def json_rows(path: Path) -> Rows:
    """One JSON object per line, UTF-8, blank lines skipped; a `.json` file may hold one array of them."""
    try:
        with path.open("rb") as file:
            start = file.read(1024).removeprefix(BYTE_ORDER_MARK).lstrip()
            file.seek(0)
            array = path.suffix.lower() == ".json" and start.startswith(b"[")
            for place, row in (_array if array else _lines)(path, file):
                if not isinstance(row, dict):
                    raise ConfigError(
                        f"{path}, {place} must be a JSON object with named columns, got {show(row)}"
                    )
                yield place, row
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error.strerror}); check its permissions"
        ) from error


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[str, Any]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        place = f"{path}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise ConfigError(
                f"{place} is longer than {MAX_LINE_BYTES / 2**20:.0f} MiB; write one JSON object per line,"
                " one question each"
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            row = json.loads(text) if text else None
        except UnicodeDecodeError as error:
            gzip = line.startswith(GZIP)
            cure = "the file is compressed, unpack it" if gzip else "convert the file to UTF-8"
            raise ConfigError(f"{place} is not UTF-8; {cure}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{place} is not valid JSON ({error}); write one JSON object per line"
            ) from error
        if text:
            yield f"line {number}", row


def _array(path: Path, file: BinaryIO) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(
            f"{path} is not a JSON array in UTF-8 ({error}); write one array of objects, or one"
            " object per line"
        ) from error
    for index, row in enumerate(rows):
        yield f"row {index}", row


def parquet_rows(path: Path, names: Sequence[str]) -> Rows:
    """The columns `names` of a parquet file, or all of them if one is missing, for the error message."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            complete = set(names) <= set(file.schema_arrow.names)
            index = 0
            for batch in file.iter_batches(columns=list(names) if complete else None):
                for row in batch.to_pylist():
                    yield f"row {index}", row
                    index += 1
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"cannot read '{path}' as parquet ({error})") from error


def dataset_rows(
    path: str, *, split: str, name: str | None, streaming: bool, names: Sequence[str]
) -> Rows:
    """A data set on the hub or a folder of files; code shipped with a data set is never run."""
    import datasets  # takes two seconds, which a run on other sources need not spend
    from datasets.exceptions import DatasetsError

    local = Path(path).expanduser()
    if local.exists():
        path = str(local)
    else:
        _check_hub(path)
    try:
        # A folder without configurations ignores `name`, as a single file does.
        if local.exists() and datasets.get_dataset_config_names(path) == ["default"]:
            name = None
        data = datasets.load_dataset(path, name=name, split=split, streaming=streaming)
        # Other columns (worked solutions, images) can be a hundred times the size. If one is missing,
        # all are kept for the error message that lists them.
        if set(names) <= set(data.column_names or ()):
            data = data.select_columns(list(names))
        for index, row in enumerate(data):
            yield f"row {index}", row
    except ConnectionError as error:
        raise _unreachable(path, error) from error
    except (OSError, ValueError, DatasetsError) as error:
        raise ConfigError(
            f"cannot load the data set '{path}' (split {split}) ({error}); check path, name and split"
        ) from error


def _check_hub(path: str) -> None:
    """Asks the hub once: `datasets` would retry for half a minute, even for a misspelled id."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        HfApi().dataset_info(path, timeout=HUB_TIMEOUT_SECONDS)
    except OfflineModeIsEnabled:
        return  # the cache may have it
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ConfigError(
            f"no data set '{path}' on the hub that you can read, and no such file or folder here;"
            " check the id, or log in (hf auth login) if it is private or gated"
        ) from error
    except Exception as error:  # the hub's client has changed its transport and its errors before
        raise _unreachable(path, error) from error


def _unreachable(path: str, error: Exception) -> ConfigError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        problem = (
            f"the data set '{path}' is not in the cache, and HF_HUB_OFFLINE forbids asking the hub"
        )
        cure = "unset it"
    else:
        problem = f"cannot reach the data set '{path}' on the hub ({error})"
        cure = "check the network, set HF_HUB_OFFLINE=1 if it is in the cache"
    return ConfigError(
        f"{problem}; {cure}, or give the path of a local copy: a .jsonl, .json or .parquet file, or a"
        " folder"
    )
