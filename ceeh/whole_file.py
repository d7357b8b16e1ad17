"""A file that is either whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ceeh.whole_folder import sync


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, which takes its place, on disk, when the block ends without an error.

    What was at `path` stays until then, and for good after an error. A kill leaves a
    `.<name>.partial` beside it, which `remove_partial` clears away.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """`text` as the file's new content, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def remove_partial(folder: Path) -> None:
    """Removes what killed writers left anywhere in `folder`."""
    for leftover in folder.rglob(".*.partial"):
        if leftover.is_file():
            leftover.unlink()
