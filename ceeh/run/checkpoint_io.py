"""How Lightning reads and writes checkpoints here: whole files, streamed, never one with NaN or infinity."""

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
        """Runs no pickle. Raises ConfigError for a file that is not a checkpoint of a run."""
        # Not mapped: the optimizer would keep the file open, and its disk space in use, for the whole run.
        return read_checkpoint(Path(path), mmap=False)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class Stream:
    """What torch writes to. It keeps an error until `close` and writes nothing after it.

    torch's writer is C++ and ends the process when a write below it fails.
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
        """Raises the error of a write."""
        if self.error is not None:
            raise self.error
