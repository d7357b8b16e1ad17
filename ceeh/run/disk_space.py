"""Disk space: how much checkpoints take, how much is free, and what to say where it is not enough."""

import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from ceeh.errors import FULL, LOCKED, ConfigError, RunError
from ceeh.run.checkpoint import checkpoint_files
from ceeh.run.shards import size_of


def free_bytes(place: Path) -> int:
    """Bytes that can be written at `place`, which need not exist yet."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors as torch saves them: whole storages, shared ones once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def check_space(checkpoints: Path, one: int, keep: int) -> None:
    """Warns when `keep` checkpoints of `one` bytes, and the next one, will not fit.

    Raises RunError when not even one fits.
    """
    free = free_bytes(checkpoints)
    present = sum(map(size_of, checkpoint_files(checkpoints).values()))
    needed = (keep + 1) * one - present
    sizes = (
        f"a checkpoint takes about {format_bytes(one)}, and {format_bytes(free)} are free in "
        f"'{checkpoints}'"
    )
    if free < one:
        raise RunError(
            f"{sizes}, too little for even one; free space there, or set output to a folder on another disk"
        )
    if free < needed:
        warnings.warn(
            f"{sizes}: checkpoints.keep = {keep}, and the next one while it is written, take "
            f"{format_bytes(needed)} more; free space, or saves will fail",
            stacklevel=2,
        )


@contextmanager
def written(file: Path) -> Iterator[None]:
    """Inside, an OSError means that `file` of a run is not written; see `unwritable`."""
    try:
        yield
    except OSError as error:
        raise unwritable(f"'{file}' cannot be written", file, error) from error


def unwritable(what: str, place: Path, error: OSError) -> ConfigError | RunError:
    """What to raise where a run cannot write to `place`: ConfigError where it may not, else RunError."""
    other = error.filename2 or error.filename  # what it was renamed or linked to
    reason = f"{error.strerror or error}{f': {other}' if other else ''}"
    if error.errno in LOCKED:
        return ConfigError(
            f"{what} ({reason}); make the run folder and all in it writable for this user, or copy it "
            "to another output, and resume with ckpt_path=last"
        )
    if error.errno in FULL:
        return RunError(
            f"{what} ({reason}), {format_bytes(free_bytes(place))} are free there; free space and resume "
            "with ckpt_path=last"
        )
    return RunError(f"{what} ({reason}); remove the cause and resume with ckpt_path=last")


def format_bytes(size: float) -> str:
    """`size` bytes in the largest unit that gives at least one."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    power = min((max(int(size), 1).bit_length() - 1) // 10, len(units) - 1)
    return f"{size / 2 ** (10 * power):.{min(power, 1)}f} {units[power]}"
