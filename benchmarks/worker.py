"""One side of a comparison, in its own process and environment: runs a step on request and reports it.

A request is a line on stdin, the reply a line of JSON on stdout. A waiting worker blocks in a read, so
it takes no CPU time from the other side. Imports neither ceeh nor torch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Worker:
    """The parent's side. `module` is run by `python` with `job` as a file; its stderr goes to `log`.

    Raises RuntimeError with the end of the log when the process ends instead of answering.
    """

    def __init__(
        self, python: str | Path, module: str, job: Mapping[str, Any], *, log: Path
    ) -> None:
        self.log = log
        file = log.with_suffix(".json")
        file.write_text(json.dumps(job))
        count = str(job["threads"])
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), "-m", module, str(file)],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def step(self) -> dict[str, Any]:
        """Runs one step; returns what the worker measured."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            end = "\n".join(self.log.read_text().splitlines()[-30:])
            raise RuntimeError(f"the worker ended; the last lines of {self.log}:\n{end}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process: it sees the end of its requests."""
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Requests:
    """The worker's side. What libraries print goes to stderr: stdout is for answers alone."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())

    def wait(self) -> None:
        """Returns when a step is requested; ends the process at the end of the requests."""
        if not sys.stdin.readline():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def answer(self, **measured: Any) -> None:
        self.answers.write(json.dumps(measured) + "\n")
        self.answers.flush()


def even_length(prompt: Any, text: str) -> float:
    """A reward that costs nothing and that random text earns half the time."""
    return float(len(text) % 2 == 0)
