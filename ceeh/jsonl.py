"""`metrics.jsonl`: what a run measured, one line per rollout step, whatever any server does."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

ROLLOUT_STEP = "rollout/step"


def stable_name(name: str) -> str:
    """A metric's name as every store can hold it: `pass@8` is `pass_at_8`."""
    return name.replace("@", "_at_")


class JSONLLogger(Logger):
    """`metrics.jsonl`: a line `{"rollout_step": n, "global_step": m, name: value}` per step.

    Lightning logs several times within a step; what it logs is merged into the step's line, which
    is rewritten in place, so the file is complete after every call. Metrics without `rollout/step`
    (an evaluation) belong to the rollout step before them, to 0 before the first. `global_step` is
    the `step` that Lightning passes: batches finished, from 0, under manual optimisation. Infinite
    and undefined values are null. A half line left by a crash goes when the file is opened again.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.jsonl"
        self._row: dict[str, Any] = {"rollout_step": 0}
        self._offset = 0
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
    def resume_from_step(self, rollout_step: int) -> None:
        """Drops the lines after `rollout_step`, the checkpoint's: they are written anew."""
        self._keep(rollout_step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        rollout_step = int(metrics.get(ROLLOUT_STEP, self._row["rollout_step"]))
        if rollout_step != self._row["rollout_step"]:
            self._row = {"rollout_step": rollout_step}
            self._offset = self.path.stat().st_size if self.path.exists() else 0
        self._row.setdefault("global_step", step)
        for name, value in metrics.items():
            self._row[stable_name(name)] = value if math.isfinite(value) else None
        line = json.dumps(self._row, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write over the step's earlier line: a kill in between leaves at worst a half line.
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._offset)
            file.write(line.encode())
            file.truncate()

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
            temporary = self.path.with_suffix(".tmp")
            temporary.write_bytes(b"".join(kept))
            os.replace(temporary, self.path)
        self._row = json.loads(kept[-1]) if kept else {"rollout_step": 0}
        self._offset = sum(len(line) for line in kept[:-1])
