"""Lightning's reading and writing of checkpoints: whole files, streamed, never a poisoned one."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import CheckpointIO

from ceeh.run.atomic import atomic_write
from ceeh.run.checkpoint import not_finite, read_checkpoint, tensors
from ceeh.run.disk_space import free_bytes, storage_bytes
from ceeh.runtime import shutdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a save left no file; `poisoned` when no later save could do better. Sizes in bytes."""

    reason: str
    needed: int = 0
    free: int = 0
    poisoned: bool = False


class WholeCheckpointIO(CheckpointIO):
    """A checkpoint takes its name when all of it is on disk; torch's archive carries its checksums.

    A save that a disk or a number prevents leaves everything as it was and is told in `failure`,
    not raised: after a save Lightning lets every rank wait for rank 0, which alone writes.
    """

    def __init__(self) -> None:
        self.failure: Failure | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        file, self.failure = Path(path), None
        with shutdown.held():
            self._save(checkpoint, file)

    def _save(self, checkpoint: dict[str, Any], file: Path) -> None:
        if name := not_finite(checkpoint):
            self.failure = Failure(reason=f"{name} is not finite", poisoned=True)
            return
        needed = storage_bytes(tensor for _, tensor in tensors(checkpoint, "checkpoint"))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Trying would fill the disk to the brim, for whoever else writes on it.
            if needed > free_bytes(file.parent):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with atomic_write(file) as target:
                stream = Stream(target)
                torch.save(checkpoint, stream)  # type: ignore[arg-type]  # it needs write and flush alone
                stream.close()
        except OSError as error:
            self.failure = Failure(
                reason=error.strerror or str(error), needed=needed, free=free_bytes(file.parent)
            )

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Raises ConfigError for what is no checkpoint of a run; no pickle is run."""
        # Not mapped: the run's optimizer would hold on to the file, and to its space, for good.
        return read_checkpoint(Path(path), mmap=False)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class Stream:
    """Where torch writes to: an error is kept until the end, and nothing more is written after it.

    torch's writer is C++ that ends the whole process when a write fails below it.
    """

    def __init__(self, target: BinaryIO) -> None:
        self.target = target
        self.error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self.error is None:
            try:
                self.target.write(data)
            except BaseException as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: the file is flushed when it is whole."""

    def close(self) -> None:
        """Raises what a write has raised."""
        if self.error is not None:
            raise self.error
