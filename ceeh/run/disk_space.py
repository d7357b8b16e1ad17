"""Disk space: what checkpoints take, what is free, and whether the one is enough for the other."""

import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ceeh.errors import ConfigError
from ceeh.run.checkpoint import checkpoint_files


def free_bytes(place: Path) -> int:
    """What a user may still write at `place`, which need not exist yet."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors as torch saves them: whole storages, shared ones once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def check_space(checkpoints: Path, one: int, keep: int) -> None:
    """Warns when `keep` checkpoints of `one` bytes and the next beside them will not fit.

    Raises ConfigError when not a single one does.
    """
    free = free_bytes(checkpoints)
    present = sum(file.stat().st_size for file in checkpoint_files(checkpoints).values())
    wanted = (keep + 1) * one - present
    numbers = (
        f"a checkpoint takes about {format_bytes(one)}, {format_bytes(free)} are free in "
        f"'{checkpoints}'"
    )
    if free < one:
        raise ConfigError(
            f"output: {numbers}, too little for a single one; make room there, or set output to a folder "
            "on another disk"
        )
    if free < wanted:
        warnings.warn(
            f"{numbers}: checkpoints.keep = {keep} and the next one beside them want {format_bytes(wanted)} "
            "more; make room, or saves will fail",
            stacklevel=2,
        )


def format_bytes(size: float) -> str:
    """`size` bytes in the largest unit of which it is at least one."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    power = min((max(int(size), 1).bit_length() - 1) // 10, len(units) - 1)
    return f"{size / 2 ** (10 * power):.{min(power, 1)}f} {units[power]}"
