"""Files and folders that appear whole or not at all: written next to their place, synced, renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ceeh.errors import ConfigError
from ceeh.runtime import shutdown
from ceeh.runtime.paths import expanded


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path`, on disk, when the block ends without an error.

    A kill leaves `.<name>.partial` in the folder; `remove_partial` removes it.
    """
    partial = partial_of(path)
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
    with atomic_write(path) as file:
        file.write(text.encode())


def atomic_link(path: Path, target: str) -> None:
    """Points the link at `path` to `target`; readers never find it missing, whoever else writes it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    os.replace(partial, path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder that replaces `folder` when the block ends without an error or a requested stop.

    A kill leaves `.<name>.partial`, which the next writer of the same folder removes.
    """
    partial = partial_of(folder)
    previous = folder.with_name(f".{folder.name}.previous")
    for leftover in (partial, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutdown.check()
        for file in partial.rglob("*"):
            if file.is_file():
                sync(file)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # No system replaces a folder that is not empty: between these two renames there is none.
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Removes the files and checkpoints that killed writers left anywhere in `folder`."""
    for leftover in list(folder.rglob(".*.partial")):
        if leftover.is_file():
            leftover.unlink()
        elif ".ckpt." in leftover.name:
            shutil.rmtree(leftover)


def check_folder(path: Path, place: str) -> None:
    """Raises ConfigError naming `place` where no folder can be: `path`, or one of its parents, is a file."""
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{place} '{nearest}' is a file; give a folder")


def check_run(place: str) -> Path:
    """The path of `place`. Raises ConfigError where nothing is there, with the runs beside it."""
    path = expanded(place)
    if not path.exists():
        runs = sorted(found.parent.name for found in path.parent.glob("*/config.yaml"))
        there = f"; runs in {path.parent}: {', '.join(runs)}" if runs else ""
        raise ConfigError(f"the run '{place}' does not exist{there}")
    return path


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_of(path: Path) -> Path:
    """The name of what is being written to `path`."""
    return path.with_name(f".{path.name}.partial")
