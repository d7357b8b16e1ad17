"""The MLflow run of a training or evaluation, which can neither stop nor delay it."""

import atexit
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from ceeh.errors import RunError
from ceeh.run.atomic import atomic_write_text
from ceeh.run.folder import config_files
from ceeh.run.metrics_file import FILE, read_lines, stable_name
from ceeh.runtime.distributed import say
from ceeh.runtime.text import escape, flatten, redact
from ceeh.runtime.versions import provenance
from ceeh.tracking.state import START, STATE, read_state

PACE_SECONDS, RETRY_SECONDS, CLOSE_SECONDS, FINISH_SECONDS = 1.0, 10.0, 0.8, 30.0
UPLOAD_BYTES_PER_SECOND = 5e6  # the slowest upload that `deliver` waits for
ROWS_PER_CALL = 16

# urllib3 logs whole addresses, which may hold a secret; the warnings below are redacted.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
log = logging.getLogger(__name__)


class GuardedMLFlowLogger(Logger):
    """Delivers the `folder` of a run to MLflow from a daemon thread; a failing server raises nothing.

    The thread follows metrics.jsonl, which JSONLLogger writes, and a list of entries: {"metrics":
    [[name, value, ms, step], ...]}, {"params": {...}}, {"tags": {...}}, {"datasets": [...]}, {"weights":
    {step: place}}, {"file": path, "to": folder}, {"status": ..., "ms": ...}. `state` is kept in
    mlflow.json: the server, experiment and run, and when it `started`; `key`, a tag that finds the run,
    and `parent`, the key of the run it belongs to; `entries`, of which the first `delivered` are done;
    the last `row` delivered and its `offset`. Another server gets everything.

    Not based on Lightning's MLFlowLogger: its constructor creates the tables of a sqlite store, and each
    of its methods and properties, `name` too, waits for the server.
    """

    def __init__(
        self, *, uri: str, experiment: str, run_name: str, folder: Path, parent: str | None = None
    ) -> None:
        super().__init__()
        self.folder, self.metrics_file = folder, folder / FILE
        known = read_state(folder)
        new: dict[str, Any] = {
            "key": uuid.uuid4().hex,
            "parent": parent,
            "run_id": None,
            "started": _now(),
        }
        self.state: dict[str, Any] = new | {"entries": []} | START | known
        if known and known["uri"] != redact(uri):
            self.state |= START | {"run_id": None}
        self.state |= {"uri": uri, "experiment": experiment, "run_name": run_name}
        self.state |= {"parent": parent} if parent else {}
        self._rewind()
        self._client: Any = None
        self._run: Any = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._pid = os.getpid()

    @property
    def name(self) -> str:
        return self.state["experiment"]

    @property
    def version(self) -> str:
        return self.state["run_name"]

    @property
    def num_waiting(self) -> int:
        """Entries and lines of metrics.jsonl that are not delivered."""
        return len(self._undelivered) + sum(1 for _ in self._rows())

    @property
    def _undelivered(self) -> list[Mapping[str, Any]]:
        return self.state["entries"][self.state["delivered"] :]

    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        """Nothing: the thread finds them in metrics.jsonl."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `log_config` has the settings."""

    def log_config(self, config_yaml: str) -> None:
        """Opens the run; delivers settings as parameters, versions as tags, and the file config.yaml."""
        config = redact(yaml.safe_load(config_yaml))
        params = {name: str(value) for name, value in flatten(config).items()}
        tags = {k: str(v) for k, v in {**provenance(), "seed": config.get("seed")}.items()}
        self._add({"status": "RUNNING", "ms": _now()}, {"params": params}, {"tags": tags})
        if (file := config_files(self.folder)[-1]).is_file():
            self.log_file(file)

    def log_values(self, values: Mapping[str, float], step: int = 0) -> None:
        """Delivers metrics that are not in metrics.jsonl; NaN is left out."""
        ms = _now()
        points = [(stable_name(k), v, ms, step) for k, v in values.items() if math.isfinite(v)]
        self._add({"metrics": points})

    def log_base(self, row: Mapping[str, Any]) -> None:
        """Delivers the base that was measured again, whose line in metrics.jsonl `row` replaces."""
        held_out = {k: v for k, v in row.items() if k.startswith("eval/") and v is not None}
        self.log_values(held_out)

    def log_file(self, path: Path, artifact_path: str | None = None) -> None:
        """Delivers the file as it is at delivery. Its path is kept relative: the folder may move."""
        file = os.path.relpath(path.resolve(), self.folder.resolve())
        self._add({"file": file, "to": artifact_path})

    def log_folder(self, path: Path, artifact_path: str) -> None:
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            self.log_file(file, (artifact_path / file.parent.relative_to(path)).as_posix())

    def log_data_sets(self, *data_sets: Mapping[str, Any]) -> None:
        """Delivers what the run reads, of `data_set`, as its inputs, once."""
        entry = {"datasets": list(data_sets)}
        if entry not in self.state["entries"]:
            self._add(entry)

    def log_weights(self, places: Mapping[int, Path]) -> None:
        """Where the weights of evaluated policies are, by rollout step; those of others are gone."""
        self._add({"weights": {str(step): str(place.resolve()) for step, place in places.items()}})

    def finalize(self, status: str = "success") -> None:
        """Lightning calls it after every validate and fit: only a failure ends the run here."""
        if status == "failed":
            self._add({"status": "FAILED", "ms": _now()})

    def finish(self) -> None:
        """Ends the run and delivers the rest."""
        self._add({"status": "FINISHED", "ms": _now()})
        self.deliver()

    def deliver(self) -> bool:
        """Waits until all is delivered, the server fails or time is up; returns whether all is."""
        self._add()
        files = [self.folder / entry.get("file", "") for entry in self._undelivered]
        num_bytes = sum(file.stat().st_size for file in files if file.is_file())
        self.close(FINISH_SECONDS + num_bytes / UPLOAD_BYTES_PER_SECOND)
        return not self.num_waiting

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stops after a last attempt of at most `seconds`; called at process exit."""
        if self._thread and self._thread.is_alive() and not self._closing.is_set():
            self._closing.set()
            self._thread.join(seconds)
            if left := self.num_waiting:
                later = f"send them later with: python -m ceeh.tracking {self.folder}"
                log.warning("%d entries for MLflow were not sent; %s", left, later)

    @rank_zero_only
    def _add(self, *entries: Mapping[str, Any]) -> None:
        if os.getpid() != self._pid:  # a forked process: its parent tracks the run
            return
        self._save(add=entries)
        if self._thread is None:
            # Here, since imports in two threads at once can deadlock.
            import ceeh.tracking.mlflow_run  # noqa: F401

            atexit.register(self.close)
        if self._thread is None or not self._thread.is_alive():
            self._closing.clear()
            self._thread = threading.Thread(target=self._loop, name="mlflow", daemon=True)
            self._thread.start()

    def _save(self, add: Sequence[Mapping[str, Any]] = (), **changes: Any) -> None:
        with self._lock:
            self.state |= changes | {"entries": [*self.state["entries"], *add]}
            kept = self.state | {"uri": redact(self.state["uri"])}  # a run folder holds no secret
            with suppress(OSError):  # a full disk: the next call makes up for it
                self.folder.mkdir(parents=True, exist_ok=True)
                atomic_write_text(self.folder / STATE, json.dumps(kept, indent=1) + "\n")

    def _loop(self) -> None:
        last = False
        while not last:
            last, wait = self._closing.is_set(), PACE_SECONDS
            try:
                self._deliver()
            except RunError as error:
                wait = RETRY_SECONDS
                self._warn("unusable", f"cannot be used: {error}")
            except Exception as error:  # an outside service: whatever it raises, training continues
                wait = RETRY_SECONDS
                self._warn("silent", f"does not answer, retrying: {error}")
            self._closing.wait(wait)

    def _deliver(self) -> None:
        from ceeh.tracking.mlflow_run import address, find_or_create, open_client, send

        if self._client is None and self._next():
            client = open_client(self.state["uri"])
            self._run = find_or_create(client, self.state)
            run_id = self._run.info.run_id
            if run_id != self.state["run_id"]:
                self._save(run_id=run_id, **START)
            self._client = client
            say(f"MLflow: {redact(address(self.state['uri'], self._run))}")
        while self._client and (step := self._next()):
            entry, progress = step
            for reason in send(self._client, self._run, entry, self.folder):
                self._warn("rejected", f"rejected an item, which is dropped: {reason}")
            self._save(**progress)

    def _next(self) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        """The next entry, and what changes in `state` by its delivery.

        Metrics come before the rest, which may be large files; what names their data set before them.
        """
        now = self._file_state()
        if now and (now.st_size < self.state["offset"] or now.st_ino != self._inode):
            self._rewind()
        named = not any("datasets" in entry for entry in self._undelivered)
        if named and (rows := list(islice(self._rows(), ROWS_PER_CALL))):
            points = [point for _, row in rows for point in self._points(row)]
            return {"metrics": points}, {"offset": rows[-1][0], "row": rows[-1][1]}
        for entry in self._undelivered:
            return entry, {"delivered": self.state["delivered"] + 1}
        return None

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Offset and content of each line of metrics.jsonl that is new, or longer than when delivered.

        One that is being written is read at the next attempt.
        """
        for line in read_lines(self.metrics_file, self.state["offset"]):
            if line.row != self.state["row"]:
                yield line.offset, line.row

    def _rewind(self) -> None:
        """Moves `offset` to the line of the last step delivered, or the last line that a resume has left."""
        now = self._file_state()
        self._inode = now and now.st_ino
        """Another where the file was rewritten with a new first line, so that all others begin elsewhere."""
        delivered, start = self.state["row"].get("rollout_step", 0), 0
        for line in read_lines(self.metrics_file):
            if line.row["rollout_step"] > delivered:
                break
            start = line.offset
        self.state["offset"] = start

    def _file_state(self) -> os.stat_result | None:
        return self.metrics_file.stat() if self.metrics_file.is_file() else None

    def _points(self, row: Mapping[str, Any]) -> list[tuple[str, float, int, int]]:
        """(name, value, ms, step) of what is new: Lightning adds to the line of a step several times."""
        step, last = row["rollout_step"], self.state["row"]
        known = last if last.get("rollout_step") == step else {}
        ms = int(1000 * self.metrics_file.stat().st_mtime)
        keys = "rollout_step", "global_step"
        new = {k: v for k, v in row.items() if k not in keys and v not in (None, known.get(k))}
        return [(name, value, ms, step) for name, value in new.items()]

    def _warn(self, kind: str, text: str) -> None:
        """Once for each kind; the client's words may quote the address, password included."""
        if kind not in self._warned:
            self._warned.add(kind)
            text = escape(redact(f"MLflow at {self.state['uri']} {' '.join(text.split())}")[:600])
            log.warning("%s. Training continues; everything is kept in %s", text, self.folder)


def _now() -> int:
    """Milliseconds since 1970."""
    return int(1000 * time.time())
