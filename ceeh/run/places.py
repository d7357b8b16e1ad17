"""Folders that commands write to: checked for what is there, and claimed by one process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ceeh.errors import ConfigError
from ceeh.runtime.paths import expanded

RUN, EVALUATION, COMPARISON, STUDY = "a run", "an evaluation", "a comparison", "a study"
FILES = {
    RUN: "config.yaml",
    EVALUATION: "settings.json",
    COMPARISON: "comparison.json",
    STUDY: "study.yaml",
}
"""The file by which the folder of each kind is known."""


def check_folder(path: Path, place: str) -> None:
    """Raises ConfigError naming `place` where no folder can be: `path`, or one of its parents, is a file."""
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{place} '{nearest}' is a file; give a folder")


def check_report_folder(path: Path, place: str, own: str) -> None:
    """As `check_folder`; also where a report of another kind than `own` would be replaced."""
    check_folder(path, place)
    for kind, file in FILES.items():
        ours = any(
            (path / name).exists() for name in ("report.html", "results.json", "checkpoints")
        )
        if kind != own and ours and (path / file).is_file():
            raise ConfigError(
                f"{place} '{path}' is the folder of {kind} ({file}), whose report would be replaced; give "
                "another folder"
            )


def check_run(place: str) -> Path:
    """The path of `place`. Raises ConfigError where nothing is there, with the runs beside it."""
    path = expanded(place)
    if not path.exists():
        runs = sorted(found.parent.name for found in path.parent.glob(f"*/{FILES[RUN]}"))
        there = f"; runs in {path.parent}: {', '.join(runs)}" if runs else ""
        raise ConfigError(f"the run '{place}' does not exist{there}")
    return path


@contextmanager
def claimed(folder: Path, in_use: str) -> Iterator[None]:
    """Inside, no other process can claim `folder`: two would replace each other's files.

    The claim ends with its process. Raises ConfigError, `in_use`, when another process has it. A file system
    without locks has no claims.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(in_use) from error
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
