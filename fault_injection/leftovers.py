"""What a process leaves behind: children, shared memory, temporary files."""

import ctypes
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

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
        files = [
            f"file {file.relative_to(self.temporary)}"
            for file in self.temporary.rglob("*")
            if not file.is_dir()
        ]
        shared = [f"shared memory {name}" for name in set(os.listdir(SHARED_MEMORY)) - self.shared]
        return files + shared + self._orphans()

    def _orphans(self) -> list[str]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while orphans := children():
            if time.monotonic() > deadline:
                words = [f"process {name}" for name in orphans.values()]
                for number in orphans:
                    os.kill(number, signal.SIGKILL)
                return words
            time.sleep(0.02)
        return []


def children() -> dict[int, str]:
    """Process number -> command of this process's children, after reaping those that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    numbers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(number): Path(f"/proc/{number}/cmdline").read_text() for number in numbers}
