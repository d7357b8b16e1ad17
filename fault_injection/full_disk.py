"""python -m fault_injection.full_disk: a run on a disk that fills up and is cleared. Needs root to mount.

The disk is a tmpfs, and the error is the system's own ENOSPC.
"""

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ceeh.callbacks.checkpoint import RunCheckpoint
from ceeh.run.checkpoint_io import Stream
from ceeh.runtime.versions import provenance
from fault_injection.equality import differences
from fault_injection.process import attempt, command_line, prepare, uninterrupted, write_results

MIB = 32
"""Of the disk: a run of 8 steps takes about 8."""


def drill(work: Path, disk: Path) -> dict[str, Any]:
    """Three disks: full before a save, full during one, never cleared; what each run left."""
    results: dict[str, Any] = {}
    whole, log = uninterrupted(work), work / "log"
    for name, filling in (
        ("full before a save, cleared later", fill_before),
        ("full during a save, cleared later", fill_during),
    ):
        run = new_disk(disk) / "starter"
        status = attempt(disk, log, inject=lambda: filling(disk, cleared_at=8))  # noqa: B023
        results[name] = {
            "status": status,
            "checkpoints": sorted(file.name for file in (run / "checkpoints").iterdir()),
            # Rollouts and checkpoints of steps without disk space are missing.
            "differences": differences(whole / "starter", run, common=True),
        }
    run = new_disk(disk) / "starter"
    name = "full for good"
    stopped = attempt(
        disk, log, "checkpoints.max_failures=2", inject=lambda: fill_during(disk, cleared_at=None)
    )
    kept = sorted(file.name for file in (run / "checkpoints").iterdir())
    (disk / "ballast").unlink()
    resumed = attempt(disk, log)
    results[name] = {
        "status": stopped,
        "checkpoints": kept,
        "status after clearing": resumed,
        "differences": differences(whole / "starter", run),
    }
    results["told"] = [
        line.rpartition("UserWarning: ")[2]
        for line in log.read_text().splitlines()
        if "was not written" in line or "cannot be written" in line or "were not written" in line
    ]
    return results


def new_disk(disk: Path) -> Path:
    """Replaces the disk by an empty one."""
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", str(disk)], check=True)
    return disk


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
    at_saves({4: lambda: fill(disk), cleared_at: lambda: (disk / "ballast").unlink()})


def fill_during(disk: Path, *, cleared_at: int | None) -> None:
    """The same, but after the first bytes of the checkpoint of step 4."""
    write = Stream.write

    def start() -> None:
        def filling(stream: Stream, data: bytes | memoryview) -> int:
            stream.target.flush()
            fill(disk)
            return write(stream, data)

        Stream.write = filling

    def clear() -> None:
        Stream.write = write
        (disk / "ballast").unlink()

    at_saves({4: start, cleared_at: clear})


def at_saves(actions: dict[int | None, Callable[[], None]]) -> None:
    save = RunCheckpoint.save

    def watched(self: RunCheckpoint, trainer: Any, rollout_step: int) -> None:
        actions.get(rollout_step, lambda: None)()
        save(self, trainer, rollout_step)

    RunCheckpoint.save = watched


def main(arguments: Sequence[str] | None = None) -> int:
    given = command_line("fault_injection.full_disk", __doc__ or "").parse_args(arguments)
    disk = given.work / "disk"
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)
    prepare(given.work)
    try:
        results = drill(given.work, disk) | {"versions": provenance()}
    finally:
        if disk.is_mount():
            subprocess.run(["umount", str(disk)], check=True)
    write_results(results, given.output)
    print(json.dumps(results, indent=2))
    runs = [run for name, run in results.items() if name.startswith("full ")]
    ended = results["full for good"]["status"] == 1
    return int(not ended or any(run["differences"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
