"""python -m fault_injection.full_disk: a run on a disk that fills up and is cleared. Needs root to mount."""

import errno
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ceeh.callbacks.checkpoint import RunCheckpoint
from ceeh.run.checkpoint_io import Stream
from fault_injection.equality import differences
from fault_injection.process import attempt, run_experiment, uninterrupted

MIB = 32
"""Of the disk: a run of 8 steps takes about 8."""
SAID = ("was not written", "cannot be written", "were not written")


def inject(work: Path) -> dict[str, Any]:
    """Three disks: full before a save, full during one, never cleared; what each run left.

    The disk is a tmpfs, and the error is the system's own ENOSPC.
    """
    disk, log, whole = work / "disk", work / "log", uninterrupted(work)
    run = disk / "starter"
    results: dict[str, Any] = {}
    try:
        for moment, filling in (("before", fill_before), ("during", fill_during)):
            mount(disk)
            status = attempt(disk, log, inject=partial(filling, disk, cleared_at=8))
            results[f"full {moment} a save, cleared later"] = {
                "status": status,
                "checkpoints": sorted(file.name for file in (run / "checkpoints").iterdir()),
                # Rollouts and checkpoints of steps without disk space are missing.
                "differences": differences(whole / "starter", run, common=True),
            }
        mount(disk)
        filling = partial(fill_during, disk, cleared_at=None)
        stopped = attempt(disk, log, "checkpoints.max_failures=2", inject=filling)
        kept = sorted(file.name for file in (run / "checkpoints").iterdir())
        (disk / "ballast").unlink()
        results["full for good"] = {
            "status": stopped,
            "checkpoints": kept,
            "status after clearing": attempt(disk, log),
            "differences": differences(whole / "starter", run),
        }
    finally:
        unmount(disk)
    ended = results["full for good"]["status"] == 1
    lines = [line for line in log.read_text().splitlines() if any(said in line for said in SAID)]
    return results | {
        "passed": ended and not any(found["differences"] for found in results.values()),
        "said": [line.rpartition("UserWarning: ")[2] for line in lines],
    }


def unmount(disk: Path) -> None:
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)


def mount(disk: Path) -> None:
    """Replaces the disk by an empty one."""
    unmount(disk)
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", str(disk)], check=True)


def fill(disk: Path) -> None:
    """To the last byte."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def fill_before(disk: Path, *, cleared_at: int | None) -> None:
    """The disk is full when step 4 is saved, and has space again at step `cleared_at`."""
    at_saves({4: lambda: fill(disk), cleared_at: (disk / "ballast").unlink})


def fill_during(disk: Path, *, cleared_at: int | None) -> None:
    """The same, but after the first bytes of the checkpoint of step 4."""
    write = Stream.write

    def start() -> None:
        def filling(self: Stream, data: bytes | memoryview) -> int:
            self.target.flush()
            fill(disk)
            return write(self, data)

        Stream.write = filling

    def clear() -> None:
        Stream.write = write
        (disk / "ballast").unlink()

    at_saves({4: start, cleared_at: clear})


def at_saves(actions: dict[int | None, Callable[[], None]]) -> None:
    save = RunCheckpoint.save

    def watched(self: RunCheckpoint, trainer: Any, rollout_step: int, **options: Any) -> None:
        actions.get(rollout_step, lambda: None)()
        save(self, trainer, rollout_step, **options)

    RunCheckpoint.save = watched


if __name__ == "__main__":
    sys.exit(run_experiment(inject))
