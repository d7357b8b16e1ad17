"""python -m fault_injection.full_disk: a run on a disk that fills up and is cleared. Needs root to mount.

The disk is a tmpfs; what fails is the system's own ENOSPC.
"""

import argparse
import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ceeh.callbacks.checkpoint import RunCheckpoint
from ceeh.run.checkpoint_io import Stream
from fault_injection.equality import differences
from fault_injection.process import attempt, import_everything

MIB = 32
"""Of the disk: a run of 8 steps takes about 8."""


def drill(work: Path, disk: Path) -> dict[str, Any]:
    """Three disks: full before a save, full during one, full for good; what each run left."""
    figures: dict[str, Any] = {}
    whole, log = work / "whole", work / "log"
    assert attempt(whole, log) == 0, f"see {log}"
    for name, filling in (
        ("full before a save, cleared later", fill_before),
        ("full during a save, cleared later", fill_during),
    ):
        run = new_disk(disk) / "starter"
        status = attempt(disk, log, meddle=lambda: filling(disk, cleared_at=8))  # noqa: B023
        figures[name] = {
            "status": status,
            "checkpoints": sorted(file.name for file in (run / "checkpoints").iterdir()),
            # Rollouts and checkpoints of steps that found no room are not there.
            "differences": differences(whole / "starter", run, common=True),
        }
    run = new_disk(disk) / "starter"
    name = "full for good"
    stopped = attempt(
        disk, log, "checkpoints.max_failures=2", meddle=lambda: fill_during(disk, cleared_at=None)
    )
    kept = sorted(file.name for file in (run / "checkpoints").iterdir())
    (disk / "ballast").unlink()
    resumed = attempt(disk, log)
    figures[name] = {
        "status": stopped,
        "checkpoints": kept,
        "status after clearing": resumed,
        "differences": differences(whole / "starter", run),
    }
    figures["told"] = [
        line.rpartition("UserWarning: ")[2]
        for line in log.read_text().splitlines()
        if "was not written" in line or "cannot be written" in line or "were not written" in line
    ]
    return figures


def new_disk(disk: Path) -> Path:
    """An empty one in place of the last."""
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
    """The disk is full when step 4 is to be saved, and has room again at step `cleared_at`."""
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
    parser = argparse.ArgumentParser(
        prog="python -m fault_injection.full_disk", description=__doc__
    )
    parser.add_argument("--work", type=Path, default=Path("runs/full_disk"), help="emptied first")
    parser.add_argument("--output", type=Path, help="where to write the figures, JSON")
    given = parser.parse_args(arguments)
    disk = given.work / "disk"
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    import_everything()
    try:
        figures = drill(given.work, disk)
    finally:
        if disk.is_mount():
            subprocess.run(["umount", str(disk)], check=True)
    if given.output:
        given.output.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    runs = [run for run in figures.values() if isinstance(run, dict)]
    return int(any(run["differences"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
