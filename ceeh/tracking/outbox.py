"""What a run has to tell its tracking server, kept in the run's folder until the server has it.

`mlflow.jsonl` holds an entry per line in the order in which they were made; `mlflow.json` says which
server and run they belong to and up to which byte that run has them. An entry is sent once or, after a
crash between sending and noting it, twice.
"""

import json
import os
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ceeh.runtime.text import redact

ENTRIES, STATE = "mlflow.jsonl", "mlflow.json"
MAX_BYTES = 2**20


class Outbox:
    """The entries of `folder`; one thread appends, another reads and advances.

    `about` (the server's `uri`, `experiment`, `run_name`) is noted beside them. Entries that another
    server has are all still to be sent to this one. A half line left by a crash goes.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self.folder = folder
        self.path = folder / ENTRIES
        self._lock = threading.Lock()
        self.state: dict[str, Any] = {"run_id": None, "key": uuid.uuid4().hex, "sent": 0}
        known = read_state(folder)
        if known.get("uri") == redact(about["uri"]):
            self.state |= known
        self.state |= about
        self.size = 0
        if self.path.is_file():
            content = self.path.read_bytes()
            self.size = content.rfind(b"\n") + 1
            if self.size < len(content):
                os.truncate(self.path, self.size)
        self.state["sent"] = min(self.state["sent"], self.size)

    @property
    def sent(self) -> int:
        """Bytes that the server has."""
        return self.state["sent"]

    @property
    def is_empty(self) -> bool:
        return self.sent >= self.size

    def append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
            self.size += len(line)

    def read(self) -> list[tuple[dict[str, Any], int]]:
        """The next entries, and for each the byte behind it; none when all are sent."""
        if self.is_empty:
            return []
        with self.path.open("rb") as file:
            file.seek(self.sent)
            content = file.read(min(MAX_BYTES, self.size - self.sent))
            if b"\n" not in content:  # one entry larger than that
                content += file.readline()
        entries, end = [], self.sent
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            end += len(line)
            entries.append((json.loads(line), end))
        return entries

    def next_size(self) -> int:
        """Bytes of the file that is to be sent next, 0 when that is no file."""
        for entry, _ in self.read()[:1]:
            file = self.folder / entry.get("file", "")
            return file.stat().st_size if "file" in entry and file.is_file() else 0
        return 0

    @property
    def num_waiting(self) -> int:
        """Entries that are still to be sent."""
        if self.is_empty:
            return 0
        with self.path.open("rb") as file:
            file.seek(self.sent)
            return sum(1 for _ in file)

    def note(self, **changes: Any) -> None:
        """Writes down what changed of the state: `run_id`, or `sent` up to a byte."""
        self.state |= changes
        temporary = self.folder / f".{STATE}"
        kept = self.state | {"uri": redact(self.state["uri"])}  # a run folder holds no secret
        temporary.write_text(json.dumps(kept, indent=1) + "\n")
        os.replace(temporary, self.folder / STATE)


def read_state(folder: Path) -> dict[str, Any]:
    """What `folder` knows of its MLflow run, empty when it was never tracked."""
    file = folder / STATE
    return json.loads(file.read_text()) if file.is_file() else {}
