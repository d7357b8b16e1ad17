"""A worker process as its pool sees it: started, written to, read from and killed.

Each worker has its own pipes: a pool with one shared queue stops when a worker dies holding its lock.
"""

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


class Worker:
    """A process and its tasks; `since` and `deadline` are monotonic times in seconds.

    The process leads its own session, so that what it starts is killed with it. `replaces` is True
    where it takes the place of a worker that an answer ended.
    """

    def __init__(self, command: Sequence[str], start_seconds: float, *, replaces: bool) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.tasks: deque[int] = deque()
        self.started = False
        self.replaces = replaces
        self._partial_line = b""
        self.expect(start_seconds)

    def expect(self, seconds: float) -> None:
        """The next message is due within `seconds`."""
        self.since = time.monotonic()
        self.deadline = self.since + seconds

    def send(self, content: bytes) -> bool:
        """False when the process has ended."""
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self.stdin.fileno(), left) :]
        except BrokenPipeError:
            return False
        return True

    def receive(self) -> list[list[Any]] | None:
        """The messages that have arrived; None at the end of the stream."""
        content = os.read(self.stdout.fileno(), 2**16)
        if not content:
            return None
        *lines, self._partial_line = (self._partial_line + content).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> int:
        """Kills the whole session. Returns the exit status, of an earlier end if there was one."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # before wait() frees the process id
        status = self.process.wait()
        self.stdin.close()
        self.stdout.close()
        return status
