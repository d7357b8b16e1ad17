"""A file that is either whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ceeh.errors import ConfigError
from ceeh.runtime import shutdown


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
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


def atomic_write_text(path: Path, text: str) -> None:
    """`text` as the file's new content, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def remove_partial(folder: Path) -> None:
    """Removes what killed writers left anywhere in `folder`."""
    for leftover in folder.rglob(".*.partial"):
        if leftover.is_file():
            leftover.unlink()


def check_folder(path: Path, place: str) -> None:
    """Raises ConfigError naming `place` where no folder can be: `path`, or what it lies in, is a file."""
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{place} '{nearest}' is a file; give a folder")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place when the block ends without an error.

    What was at `folder` is removed then, and not before. A kill leaves a `.<name>.partial` beside it,
    which the next writer of the same folder removes.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    previous = folder.with_name(f".{folder.name}.previous")
    for leftover in (partial, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                sync(file)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    with shutdown.held():
        # No system renames over a folder that is not empty: between these two lines there is none.
        if folder.exists():
            folder.rename(previous)
        partial.rename(folder)
        sync(folder.parent)
        shutil.rmtree(previous, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
