"""A distributed checkpoint: a folder `step-*.ckpt` in which each rank has written its rows of the weights.

    common.pt       the checkpoint, with an empty (meta) tensor in the place of each sharded one
    rank-00000.pt   place -> that rank's rows; the ranks' rows one after the other are the tensor
    manifest.json   the number of ranks, and bytes and CRC-32 of each file; written last

The files are torch's archives, as a full checkpoint is. Nothing in them is run.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ceeh.errors import ConfigError, first_line
from ceeh.runtime.text import leaves

COMMON, MANIFEST = "common.pt", "manifest.json"
SHARDED = ("state_dict", "optimizer_states")
"""Entries of a checkpoint that may hold sharded tensors."""
BLOCK_BYTES = 2**24


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.pt"


def file_names(ranks: int) -> list[str]:
    return [COMMON, *map(rank_file, range(ranks))]


def tensors(node: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested containers, with their places."""
    return ((name, value) for name, value in leaves(node, place) if isinstance(value, Tensor))


def replaced(checkpoint: Mapping[str, Any], change: Callable[[str, Tensor], Any]) -> dict[str, Any]:
    """The checkpoint with `change(place, tensor)` for each tensor that may be sharded."""

    def of(node: Any, place: str) -> Any:
        if isinstance(node, Tensor):
            return change(place, node)
        if isinstance(node, dict):
            return {key: of(value, f"{place}.{key}") for key, value in node.items()}
        if isinstance(node, list):
            return [of(value, f"{place}[{index}]") for index, value in enumerate(node)]
        return node

    parts = {part: of(checkpoint[part], part) for part in SHARDED if part in checkpoint}
    return {**checkpoint, **parts}


def split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `common.pt` holds, and what this rank's file does."""
    rows: dict[str, Tensor] = {}

    def without_rows(place: str, value: Tensor) -> Tensor:
        if not isinstance(value, DTensor):
            return value
        local = value.to_local()
        # An archive holds whole storages, and FSDP's are padded to rows of equal number.
        padded = local.untyped_storage().nbytes() > local.nbytes
        rows[place] = local.clone() if padded else local
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    return replaced(checkpoint, without_rows), rows


def read_archive(file: Path, *, mmap: bool = True) -> Any:
    """What torch saved in `file`; with `mmap` tensors stay on disk until they are used.

    Raises ConfigError for a file that is damaged, or that cannot be read without running code.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    # Any kind: on wrong bytes torch's unpickler raises whatever it meets.
    except Exception as error:
        raise ConfigError(
            f"'{file}' cannot be read as a checkpoint: it is damaged, or it would run code when loaded; "
            f"nothing in it was run ({first_line(error)}); give another file of checkpoints/"
        ) from error


class Rows:
    """The rows of the sharded tensors of a distributed checkpoint, whatever the ranks that wrote it."""

    def __init__(self, folder: Path) -> None:
        ranks = len(read_manifest(folder)) - 1
        self.files: Sequence[Mapping[str, Tensor]] = [
            read_archive(folder / rank_file(rank)) for rank in range(ranks)
        ]

    def read(self, place: str, start: int, stop: int) -> Tensor:
        """A copy of the rows from `start` to `stop` of the tensor at `place`."""
        parts, begin = [], 0
        for file in self.files:
            part = file[place]
            parts.append(part[max(0, start - begin) : max(0, stop - begin)])
            begin += len(part)
        return torch.cat(parts)


def joined(folder: Path, common: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint in `folder` with whole tensors."""
    rows = Rows(folder)
    return replaced(
        common,
        lambda place, value: rows.read(place, 0, len(value)) if value.is_meta else value,
    )


def read_manifest(folder: Path) -> dict[str, tuple[int, int]]:
    """File -> bytes and CRC-32. Raises ConfigError where it is missing or damaged."""
    try:
        files = json.loads((folder / MANIFEST).read_text())
        found = {name: (int(size), int(checksum)) for name, (size, checksum) in files.items()}
    except FileNotFoundError:
        found = {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"its {MANIFEST} is damaged ({first_line(error)})") from error
    if not found or sorted(found) != sorted(file_names(len(found) - 1)):
        raise ConfigError(f"it is not whole: '{folder / MANIFEST}' does not name each rank's file")
    return found


def damage(folder: Path) -> str | None:
    """Why the files in `folder` are not those that were written; None if they are. Reads all of them."""
    for name, (size, checksum) in read_manifest(folder).items():
        file = folder / name
        if not file.is_file():
            return f"it is not whole: {name} is missing"
        if file.stat().st_size != size or crc_32(file) != checksum:
            return f"it is damaged (wrong checksum of {name})"
    return None


def crc_32(file: Path) -> int:
    found = 0
    with file.open("rb") as source:
        while block := source.read(BLOCK_BYTES):
            found = zlib.crc32(block, found)
    return found


def size_of(checkpoint: Path) -> int:
    """Bytes of a checkpoint on disk."""
    files = checkpoint.iterdir() if checkpoint.is_dir() else [checkpoint]
    return sum(file.stat().st_size for file in files)
