"""Tracking servers that fail: a real `mlflow server` to kill and restart, and addresses that stay silent."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MLflowServer:
    """`mlflow server` on loopback with a sqlite store in `folder`; restarts on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError if it does not within START_SECONDS."""
        place = f"sqlite:///{self.folder}/mlflow.db"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", place, "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.1)
        ended = self.process.poll()
        what = (
            f"no answer in {START_SECONDS} s" if ended is None else f"it ended with status {ended}"
        )
        self.kill()
        raise RuntimeError(f"no server at {self.uri}: {what}; see {self.folder / 'server.log'}")

    def kill(self) -> None:
        """Sends SIGKILL to all of its processes; a second call does nothing."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class SilentServer:
    """An address that accepts connections and never answers.

    With `drops` it does not even accept: its queue is full, so the kernel drops packets, as a firewall does.
    """

    def __init__(self, *, drops: bool) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(0 if drops else 128)
        self.port = self.socket.getsockname()[1]
        self.fillers = [socket.socket() for _ in range(3 if drops else 0)]
        for filler in self.fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        for each in (*self.fillers, self.socket):
            each.close()
