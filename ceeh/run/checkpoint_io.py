"""How Lightning reads and writes checkpoints here: whole files, streamed, never one with NaN or infinity."""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import CheckpointIO

from ceeh.run.atomic import atomic_write, atomic_write_text, partial_of, sync
from ceeh.run.checkpoint import ROWS, not_finite, read_checkpoint
from ceeh.run.disk_space import free_bytes, storage_bytes
from ceeh.run.shards import COMMON, MANIFEST, file_names, rank_file, split, tensors
from ceeh.runtime.distributed import is_rank_zero, of_all_ranks, rank, wait_for_all


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a save left no file, sizes in bytes. No later save can succeed if the numbers are not `finite`."""

    reason: str
    needed: int = 0
    free: int = 0
    finite: bool = True


class AtomicCheckpointIO(CheckpointIO):
    """A checkpoint gets its name once all of it is on disk; torch's archive has its checksums.

    A failed save changes nothing and is reported in `failure`, not raised: Lightning makes all ranks wait for
    rank 0 after a save, and rank 0 alone writes.
    """

    def __init__(self) -> None:
        self.failure: Failure | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        file, self.failure = Path(path), None
        if name := not_finite(checkpoint):
            self.failure = Failure(reason=f"{name} is not finite", finite=False)
            return
        needed = storage_bytes(tensor for _, tensor in tensors(checkpoint, "checkpoint"))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Trying would fill the disk for everyone who writes to it.
            if needed > free_bytes(file.parent):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_archive(checkpoint, file)
        except OSError as error:
            self.failure = Failure(
                reason=error.strerror or str(error), needed=needed, free=free_bytes(file.parent)
            )

    def save_shards(self, checkpoint: dict[str, Any], folder: Path) -> None:
        """A distributed checkpoint. Collective; a failure of any rank is that of all.

        The folder gets its name from rank 0, after the manifest, once every rank has its file on disk.
        """
        common, rows = split(checkpoint)
        files: dict[str, Any] = {rank_file(rank()): rows}
        if is_rank_zero():
            files = {COMMON: common} | files
        needed = storage_bytes(tensor for _, tensor in tensors(files, "checkpoint"))
        name = not_finite({ROWS: rows}) or not_finite(common)
        bad, sizes = zip(*of_all_ranks((name, needed)), strict=True)
        if any(bad):
            reason = f"{next(filter(None, bad))} is not finite"
            self.failure = Failure(reason=reason, finite=False)
            return
        partial = partial_of(folder)
        if is_rank_zero():
            shutil.rmtree(partial, ignore_errors=True)
        wait_for_all()
        words, written = None, {}
        try:
            partial.mkdir(parents=True, exist_ok=True)
            if sum(sizes) > free_bytes(partial):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = {
                name: write_archive(content, partial / name) for name, content in files.items()
            }
        except OSError as error:
            words = error.strerror or str(error)
        ranks = of_all_ranks((words, written))
        words = next((found for found, _ in ranks if found), None)
        if is_rank_zero() and words is None:
            words = publish(
                partial, folder, {name: file for _, each in ranks for name, file in each.items()}
            )
        (words, *_) = of_all_ranks(words)
        self.failure = None
        if words is not None:
            self.failure = Failure(reason=words, needed=sum(sizes), free=free_bytes(folder.parent))
            if is_rank_zero():
                shutil.rmtree(partial, ignore_errors=True)

    def save_own_part(self, checkpoint: dict[str, Any], folder: Path, *, ranks: int) -> bool:
        """This rank's part of a distributed checkpoint; whether it is whole now, with those of all `ranks`.

        Without communication, for ranks that end at different moments: the last one gives it its name.
        """
        common, rows = split(checkpoint)
        files: dict[str, Any] = {rank_file(rank()): rows}
        if is_rank_zero():
            files = {COMMON: common} | files
        self.failure = None
        if name := not_finite({ROWS: rows}):
            self.failure = Failure(reason=f"{name} is not finite", finite=False)
            return False
        partial = partial_of(folder)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                written = write_archive(content, partial / name)
                atomic_write_text(partial / f"{name}.note", json.dumps(written))
        except OSError as error:
            self.failure = Failure(reason=error.strerror or str(error))
            return False
        names, whole = file_names(ranks), partial_of(folder.with_name(f"{folder.name}.whole"))
        if not all((partial / f"{name}.note").is_file() for name in names):
            return False
        try:
            partial.rename(whole)
        except FileNotFoundError:  # another rank was the last one at the same moment
            return False
        found = {name: json.loads((whole / f"{name}.note").read_text()) for name in names}
        for name in names:
            (whole / f"{name}.note").unlink()
        if words := publish(whole, folder, found):
            self.failure = Failure(reason=words)
        return self.failure is None

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Runs no pickle. Raises ConfigError for a file that is not a checkpoint of a run."""
        # Not mapped: the optimizer would keep the file open, and its disk space in use, for the whole run.
        return read_checkpoint(Path(path), mmap=False)

    def remove_checkpoint(self, path: str | Path) -> None:
        path = Path(path)
        if path.is_dir():
            # Renamed first: a kill must not leave a part of a checkpoint under its name.
            shutil.rmtree(path.rename(partial_of(path)))
        else:
            path.unlink(missing_ok=True)


def publish(partial: Path, folder: Path, files: Mapping[str, tuple[int, int]]) -> str | None:
    """Writes the manifest and gives the checkpoint its name. Returns why it could not."""
    try:
        atomic_write_text(partial / MANIFEST, json.dumps(files, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync(folder.parent)
    except OSError as error:
        return error.strerror or str(error)
    return None


def write_archive(content: Any, file: Path) -> tuple[int, int]:
    """Saves `content` atomically; returns the file's bytes and CRC-32."""
    with atomic_write(file) as target:
        stream = Stream(target)
        torch.save(content, stream)  # type: ignore[arg-type]  # it needs write and flush alone
        stream.close()
    return stream.size, stream.checksum


class Stream:
    """What torch writes to. It keeps an error until `close` and writes nothing after it.

    torch's writer is C++ and ends the process when a write below it fails.
    """

    def __init__(self, target: BinaryIO) -> None:
        self.target = target
        self.error: BaseException | None = None
        self.size = self.checksum = 0

    def write(self, data: bytes | memoryview) -> int:
        if self.error is None:
            try:
                self.target.write(data)
            except BaseException as error:
                self.error = error
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
        return len(data)

    def flush(self) -> None:
        """Nothing: the file is flushed when it is whole."""

    def close(self) -> None:
        """Raises the error of a write."""
        if self.error is not None:
            raise self.error
