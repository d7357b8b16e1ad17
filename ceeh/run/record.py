"""Reads the JSON files of a run, an evaluation and their tracking; what is not whole is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ceeh.errors import ConfigError, first_line


def read_record(
    file: Path, check: Callable[[dict[str, Any]], object], *, of: str, cure: str
) -> dict[str, Any] | None:
    """The mapping in `file`, which `of` writes; None where there is no file.

    `check` reads what its readers use. Raises ConfigError, with the `cure`, for a file that is not whole, and
    for one that `check` fails on.
    """
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text())
        if not isinstance(record, dict):
            raise TypeError("it is not a mapping")
        check(record)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"'{file}' is not a file of {of} ({type(error).__name__}: {first_line(error)}); {cure}"
        ) from error
    return record
