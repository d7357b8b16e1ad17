"""`metrics.jsonl`: what a run measured, one line per rollout step, whatever any server does."""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from ceeh.run.atomic import atomic_write

ROLLOUT_STEP = "rollout/step"


def stable_name(name: str) -> str:
    """A metric's name as every store can hold it: `pass@8` is `pass_at_8`."""
    return name.replace("@", "_at_")


def encoded(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


class JSONLLogger(Logger):
    """`metrics.jsonl`: a line `{"rollout_step": n, "global_step": m, name: value}` per step.

    Lightning logs several times within a step; what it logs is merged into the step's line, which
    is rewritten in place, so the file is complete after every call. Metrics without `rollout/step`
    (an evaluation) belong to the rollout step before them, to 0 before the first. `global_step` is
    the `step` that Lightning passes: batches finished, from 0, under manual optimisation. Infinite
    and undefined values are null. A half line left by a crash goes when the file is opened again.
    Lines that a full disk does not take are warned of once and written when it has room again.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.jsonl"
        self._row: dict[str, Any] = {"rollout_step": 0}
        self._offset = 0
        self._unwritten: bytes | None = None
        self._keep(math.inf)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved configuration lies beside the file."""

    @rank_zero_only
    def resume_from_step(self, rollout_step: int, row: Mapping[str, Any] | None = None) -> None:
        """Drops the lines after `rollout_step`, the checkpoint's: they are written anew.

        `row` is that step's line as the checkpoint has it, for a run killed before it was written.
        """
        self._keep(rollout_step)
        if row is not None and self._row["rollout_step"] < row["rollout_step"]:
            self._write(dict(row))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        self._write(self.row(metrics, step))

    def row(self, metrics: Mapping[str, int | float], step: int | None) -> dict[str, Any]:
        """The line that logging `metrics` would make of what is known of their rollout step."""
        rollout_step = int(metrics.get(ROLLOUT_STEP, self._row["rollout_step"]))
        known = self._row if rollout_step == self._row["rollout_step"] else {}
        row = {"rollout_step": rollout_step, "global_step": step} | known
        for name, value in metrics.items():
            row[stable_name(name)] = value if math.isfinite(value) else None
        return row

    def _write(self, row: dict[str, Any]) -> None:
        if row["rollout_step"] != self._row["rollout_step"]:
            if self._unwritten is None:
                self._offset = self.path.stat().st_size if self.path.exists() else 0
            else:
                self._unwritten += encoded(self._row)
        self._row = row
        earlier = self._unwritten or b""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write over the step's earlier line: a kill in between leaves at worst a half line.
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.seek(self._offset)
                file.write(earlier + encoded(row))
                file.truncate()
        except OSError as error:
            if self._unwritten is None:
                warnings.warn(
                    f"'{self.path}' cannot be written ({error.strerror or error}); training goes on, and "
                    "its lines are written when there is room again",
                    stacklevel=2,
                )
            self._unwritten = earlier
            return
        self._offset += len(earlier)
        self._unwritten = None

    @rank_zero_only
    def _keep(self, last_step: int | float) -> None:
        """Rewrites the file with the whole lines up to `last_step` and takes up the last one."""
        kept: list[bytes] = []
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:  # a half line, or two written over each other
                continue
            if line.endswith(b"\n") and row["rollout_step"] <= last_step:
                kept.append(line)
        if self.path.exists():
            with atomic_write(self.path) as file:
                file.write(b"".join(kept))
        self._row = json.loads(kept[-1]) if kept else {"rollout_step": 0}
        self._offset = sum(len(line) for line in kept[:-1])
