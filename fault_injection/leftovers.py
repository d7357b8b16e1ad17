"""What a process leaves behind: children, shared memory, temporary files."""

import ctypes
import os
import shutil
import tempfile
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
PR_SET_CHILD_SUBREAPER = 36
PATIENCE_SECONDS = 2.0


class Leftovers:
    """Watches the processes that are forked from this one, one at a time.

    This process adopts their orphans; `temporary` is their folder for temporary files once they have called
    `enter`. Shared memory has no owner: what other programs create meanwhile counts, too.
    """

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.begin()

    def begin(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        self.shared = set(os.listdir(SHARED_MEMORY))

    def enter(self) -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)

    def found(self) -> list[str]:
        """What the last process left; its children have PATIENCE_SECONDS to end and are then killed."""
        files = [file for file in self.temporary.rglob("*") if not file.is_dir()]
        shared = set(os.listdir(SHARED_MEMORY)) - self.shared
        orphans = psutil.Process().children(recursive=True)
        _, alive = psutil.wait_procs(orphans, timeout=PATIENCE_SECONDS)
        left = [
            *(f"file {file.relative_to(self.temporary)}" for file in files),
            *(f"shared memory {name}" for name in shared),
            *(f"process {process.cmdline()}" for process in alive),
        ]
        for process in alive:
            process.kill()
        return left
