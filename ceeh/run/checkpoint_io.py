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
from ceeh.runtime.distributed import gather_objects, is_rank_zero, rank, wait_for_all, world_size

NOTE = ".note"


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

        Rank 0 gives the folder its name once every rank has its part on disk.
        """
        files, bad = own_part(checkpoint)
        size = storage_bytes(tensor for _, tensor in tensors(files, "checkpoint"))
        names, sizes = zip(*gather_objects((bad, size)), strict=True)
        if any(names):
            reason = f"{next(filter(None, names))} is not finite"
            self.failure = Failure(reason=reason, finite=False)
            return
        partial = partial_of(folder)
        if is_rank_zero():
            shutil.rmtree(partial, ignore_errors=True)
        wait_for_all()
        full = sum(sizes) > free_bytes(folder.parent)
        words = os.strerror(errno.ENOSPC) if full else write_part(files, partial)
        words = next(filter(None, gather_objects(words)), None)
        if is_rank_zero():
            words = words or publish(partial, folder, ranks=world_size())
            shutil.rmtree(partial, ignore_errors=True)
        words = gather_objects(words)[0]
        self.failure = None
        if words:
            self.failure = Failure(reason=words, needed=sum(sizes), free=free_bytes(folder.parent))

    def save_own_part(self, checkpoint: dict[str, Any], folder: Path, *, ranks: int) -> bool:
        """This rank's part of a distributed checkpoint; whether it is whole now, with those of all `ranks`.

        Without communication, for ranks that end at different moments: the last one gives it its name.
        """
        self.failure = None
        files, bad = own_part(checkpoint)
        partial = partial_of(folder)
        if words := f"{bad} is not finite" if bad else write_part(files, partial):
            self.failure = Failure(reason=words)
            return False
        if not all((partial / f"{name}{NOTE}").is_file() for name in file_names(ranks)):
            return False
        whole = partial_of(folder.with_name(f"{folder.name}.whole"))
        try:
            partial.rename(whole)
        except FileNotFoundError:  # another rank was the last one at the same moment
            return False
        if words := publish(whole, folder, ranks=ranks):
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


def own_part(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The files of a distributed checkpoint that this rank writes, and what in them is not finite."""
    common, rows = split(checkpoint)
    files: dict[str, Any] = {rank_file(rank()): rows}
    if is_rank_zero():
        files[COMMON] = common
    return files, not_finite({ROWS: rows}) or not_finite(common)


def write_part(files: Mapping[str, Any], partial: Path) -> str | None:
    """Writes the files, each with a note of its bytes and CRC-32. Returns why it could not."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            written = write_archive(content, partial / name)
            atomic_write_text(partial / f"{name}{NOTE}", json.dumps(written))
    except OSError as error:
        return error.strerror or str(error)
    return None


def publish(partial: Path, folder: Path, *, ranks: int) -> str | None:
    """Joins the notes of all ranks to the manifest and gives the checkpoint its name.

    Returns why it could not.
    """
    try:
        notes = {name: partial / f"{name}{NOTE}" for name in file_names(ranks)}
        files = {name: json.loads(note.read_text()) for name, note in notes.items()}
        for note in notes.values():
            note.unlink()
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
