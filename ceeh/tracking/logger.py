"""The MLflow run of a training, which can never stop it.

`python -m ceeh.tracking RUN ...` sends what a server did not take while the run was going on.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from ceeh.run.metrics_file import ROLLOUT_STEP, stable_name
from ceeh.runtime.text import flatten, redact
from ceeh.runtime.versions import provenance
from ceeh.tracking.outbox import Outbox
from ceeh.tracking.sender import Sender


class GuardedMLFlowLogger(Logger):
    """Writes what MLflow is to have into the run's `folder`; a thread of its own sends it from there.

    Logging costs a line in a file, whatever the server does: what it does not take waits in the folder
    and is sent in order when it answers again, tried every `retry_seconds`, also by the process that
    resumes the run. Nothing is raised. `run_id` names a run to continue in place of the folder's own.
    `uri` is any of MLflow's; the artifacts of a sqlite store lie beside it in `mlartifacts/`.
    """

    def __init__(
        self,
        *,
        uri: str,
        experiment: str,
        run_name: str,
        folder: Path,
        run_id: str | None = None,
        retry_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        self.experiment_name, self.run_name = experiment, run_name
        self.folder = folder
        about = {"uri": uri, "experiment": experiment, "run_name": run_name}
        self.outbox = Outbox(folder, about | ({"run_id": run_id} if run_id else {}))
        self.sender = Sender(self.outbox, retry_seconds=retry_seconds)
        self._rollout_step = 0
        self._ended = False
        self._pid = os.getpid()

    @property
    def run_id(self) -> str | None:
        """MLflow's name of this run; None until the server has answered."""
        return self.outbox.state["run_id"]

    @property
    def name(self) -> str:
        return self.experiment_name

    @property
    def version(self) -> str:
        return self.run_name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        """Sends `metrics` at their `rollout/step`, or at the last one seen; undefined ones stay out."""
        self._rollout_step = int(metrics.get(ROLLOUT_STEP, self._rollout_step))
        named = {stable_name(n): float(v) for n, v in metrics.items() if not math.isnan(v)}
        at = {"step": self._rollout_step, "time": int(1000 * time.time())}
        self._log({"metrics": named, **at})

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Sends `params`: nested names joined by dots, secrets hidden; those the run has stay."""
        self._log({"params": {k: str(v) for k, v in flatten(redact(params)).items()}})

    @rank_zero_only
    def log_config(self, config_yaml: str, tags: Mapping[str, str]) -> None:
        """Sends the resolved configuration as artifact and parameters, with versions as tags."""
        config = redact(yaml.safe_load(config_yaml))
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self._log({"text": text, "to": "config.yaml"})
        self.log_hyperparams(config)
        told = {**provenance(), "seed": config.get("seed"), **redact(tags)}
        self._log({"tags": {name: str(value) for name, value in told.items()}})

    @rank_zero_only
    def log_folder(self, path: Path, artifact_path: str | None = None) -> None:
        """Sends a folder's files as artifacts under `artifact_path`."""
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            within = file.parent.relative_to(path)
            self.log_file(file, (Path(artifact_path or "") / within).as_posix())

    @rank_zero_only
    def log_file(self, path: Path, artifact_path: str | None = None) -> None:
        """Sends one file as an artifact into the folder `artifact_path`, as it is when it is sent."""
        file, folder = path.resolve(), self.folder.resolve()
        inside = file.is_relative_to(folder)  # so that the folder can be moved
        place = file.relative_to(folder) if inside else file
        self._log({"file": str(place), "to": None if artifact_path == "." else artifact_path})

    @rank_zero_only
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Sends the final table: `summary.json`, and each figure as `final/tuned/hard/accuracy`."""
        self._log({"text": json.dumps(summary, indent=2), "to": "summary.json"})
        values = {name: v for name, v in flatten(summary, "/").items() if name.endswith("/value")}
        figures = {
            f"final/{n.removesuffix('/value')}": v for n, v in values.items() if v is not None
        }
        self.log_metrics(figures)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Ends the run as FINISHED or FAILED; waits for nothing.

        Lightning calls it after every validate and fit; a later call opens the run again.
        """
        self._log({"status": "FINISHED" if status in ("success", "finished") else "FAILED"})
        self._ended = True

    @rank_zero_only
    def close(self) -> None:
        """Ends the sending, within a second; harmless when called twice. Later calls begin it anew."""
        self.sender.close()

    @rank_zero_only
    def finish(self) -> None:
        """Ends the run, and waits for the server to have it all while it takes what it is sent."""
        self.finalize()
        self.sender.flush()
        self.close()

    def _log(self, entry: Mapping[str, Any]) -> None:
        if os.getpid() != self._pid:  # a forked process: the run is its parent's
            return
        if self._ended:
            self._ended = False
            self.outbox.append({"status": "RUNNING"})
        self.outbox.append(entry)
        self.sender.wake()
