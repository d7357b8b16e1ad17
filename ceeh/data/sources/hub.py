"""The rows of a data set as (place, row): a folder laid out like one, one saved to disk, or on the hub."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ceeh.data.sources.readers import Rows, exact_rows, file_rows, kind, roots
from ceeh.errors import ConfigError
from ceeh.runtime.paths import expanded

HUB_TIMEOUT_SECONDS = 10
ROWS_AT_ONCE = 1000


def dataset_rows(
    path: str, *, split: str, name: str | None, streaming: bool, names: Sequence[str]
) -> Rows:
    """A data set on the hub, or a folder; code shipped with a data set is never run.

    The files of a folder's split are read like single files, so that text stays text.
    """
    import datasets  # takes two seconds, which a run on other sources need not spend
    from datasets.exceptions import DatasetsError

    local = expanded(path)
    if local.exists():
        path = str(local)
    else:
        _check_hub(path)
    try:
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            data = _saved(local, split)
        else:
            # A folder without configurations ignores `name`, as a single file does.
            if local.exists() and datasets.get_dataset_config_names(path) == ["default"]:
                name = None
            if local.exists() and (files := _files(path, name, split)):
                for file in files:
                    prefix = f"{file.relative_to(local.resolve())}, " if len(files) > 1 else ""
                    for place, row in file_rows(file, names):
                        yield f"{prefix}{place}", row
                return
            data = datasets.load_dataset(path, name=name, split=split, streaming=streaming)
        # Other columns (worked solutions, images) can be a hundred times the size. If one is missing,
        # all are kept for the error message that lists them.
        if needed := roots(names, data.column_names or ()):
            data = data.select_columns(needed)
        for index, row in enumerate(arrow_rows(data)):
            yield f"row {index}", row
    except ConnectionError as error:
        raise _unreachable(path, error) from error
    except ConfigError:
        raise
    except (OSError, ValueError, DatasetsError) as error:
        raise ConfigError(
            f"cannot load the data set '{path}' (split {split}) ({error}); check path, name and split"
        ) from error


def arrow_rows(data: Any) -> Iterator[Any]:
    arrow = data.with_format("arrow")
    for table in arrow.iter(batch_size=ROWS_AT_ONCE):
        yield from exact_rows(table)


def _saved(folder: Path, split: str) -> Any:
    """What `save_to_disk` wrote. Raises ConfigError for a split that is not there."""
    import datasets

    data = datasets.load_from_disk(str(folder))
    if isinstance(data, datasets.Dataset):
        return data  # of no named split
    if split not in data:
        raise ConfigError(
            f"the data set saved in '{folder}' has no split '{split}'; it has: {', '.join(map(str, data))}"
        )
    return data[split]


def _files(path: str, name: str | None, split: str) -> list[Path]:
    """The files of a folder's split; none if the split is an expression or a file has another format."""
    import datasets

    found = datasets.load_dataset_builder(path, name=name).config.data_files or {}
    files = [Path(file) for file in found.get(split, ())]
    return files if all(file.is_file() and kind(file) for file in files) else []


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
    return ConfigError(f"{problem}; {cure}, or give the path of a local copy: a file or a folder")
