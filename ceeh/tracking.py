"""The MLflow run of a training, which can never stop it."""

import logging
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn

from ceeh.jsonl import ROLLOUT_STEP, stable_name
from ceeh.provenance import flatten, provenance, redact
from ceeh.terminal import plain

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow reads these when it is first imported, which Lightning puts off until a logger is built.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

log = logging.getLogger(__name__)

Call = Callable[["MlflowClient", str], object]


class GuardedMLFlowLogger(Logger):
    """Lightning's MLFlowLogger behind a queue: what the server does not take is sent later.

    A call that fails warns once and is tried again, in order, after `retry_seconds` (later if
    failing took long: a dead server costs at most about 5 % of the time) and when the run ends. A
    call that the server *refuses* is dropped with a warning. Nothing is raised. `folder` is the
    run's, named in the warnings; `run_id` continues a run. `uri` is any of MLflow's; the artefacts
    of a sqlite store lie beside it in `mlartifacts/`.
    """

    def __init__(
        self,
        *,
        uri: str,
        experiment: str,
        run_name: str,
        folder: Path,
        run_id: str | None = None,
        retry_seconds: float = 60.0,
    ) -> None:
        super().__init__()
        self.uri, self.experiment_name, self.run_name = uri, experiment, run_name
        self.folder, self.retry_seconds = folder, retry_seconds
        self._resumed_run_id = run_id
        self._mlflow: MLFlowLogger | None = None
        self._pending: deque[Call] = deque()
        self._retry_at = 0.0
        self._rollout_step = 0
        self._ended = False
        self._warned: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """MLflow's name of this run, to continue it with; None while untracked."""
        return self._resumed_run_id if self._mlflow is None else self._mlflow.run_id

    @property
    def name(self) -> str:
        return self.experiment_name

    @property
    def version(self) -> str:
        return self.run_name

    @rank_zero_only
    def start(self) -> str | None:
        """Opens the run, if the server answers, and returns its `run_id`."""
        self._drain()
        return self.run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        """Sends `metrics` at their `rollout/step`, or at the last one seen; undefined ones stay out."""
        self._rollout_step = int(metrics.get(ROLLOUT_STEP, self._rollout_step))
        named = {stable_name(n): value for n, value in metrics.items() if not math.isnan(value)}
        at = self._rollout_step
        self._send(lambda client, run_id: self._lightning().log_metrics(named, at))

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Sends `params`: nested names joined by dots, secrets hidden; those the run has stay."""
        flat = flatten(redact(params))

        def call(client: "MlflowClient", run_id: str) -> None:
            known = client.get_run(run_id).data.params  # MLflow's parameters cannot be changed
            self._lightning().log_hyperparams({k: v for k, v in flat.items() if k not in known})

        self._send(call)

    @rank_zero_only
    def log_config(self, config_yaml: str, tags: Mapping[str, str]) -> None:
        """Sends the resolved configuration as artefact and parameters, with versions as tags."""
        config = redact(yaml.safe_load(config_yaml))
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self._send(lambda client, run_id: client.log_text(run_id, text, "config.yaml"))
        self.log_hyperparams(config)
        told = {**provenance(), "seed": config.get("seed"), **redact(tags)}

        def tag(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(
                run_id, tags=[RunTag(name, str(value)) for name, value in told.items()]
            )

        self._send(tag)

    @rank_zero_only
    def log_folder(self, path: Path, artifact_path: str | None = None) -> None:
        """Sends a folder's files as artefacts under `artifact_path`."""
        self._send(lambda client, run_id: client.log_artifacts(run_id, str(path), artifact_path))

    @rank_zero_only
    def log_file(self, path: Path, artifact_path: str | None = None) -> None:
        """Sends one file as an artefact into the folder `artifact_path`."""
        self._send(lambda client, run_id: client.log_artifact(run_id, str(path), artifact_path))

    @rank_zero_only
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Sends the final table: `summary.json`, and each figure as `final/tuned/hard/accuracy`."""
        content = dict(summary)
        self._send(lambda client, run_id: client.log_dict(run_id, content, "summary.json"))
        values = {name: v for name, v in flatten(summary, "/").items() if name.endswith("/value")}
        figures = {
            f"final/{n.removesuffix('/value')}": v for n, v in values.items() if v is not None
        }
        self.log_metrics(figures)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Ends the run as FINISHED or FAILED, after a last attempt at what is still to be sent.

        Lightning calls it after every validate and fit; a later call opens the run again.
        """
        self._ended = True
        self._pending.append(lambda client, run_id: self._lightning().finalize(status))
        self._retry_at = 0.0
        self._drain()
        if self._pending:
            log.warning(
                "%d MLflow calls were not sent; %s has it all", len(self._pending), self.folder
            )

    def _lightning(self) -> MLFlowLogger:
        assert self._mlflow is not None, "only called by calls in the queue"
        return self._mlflow

    def _send(self, call: Call) -> None:
        if self._ended:
            self._ended = False
            self._pending.append(lambda client, run_id: client.update_run(run_id, "RUNNING"))
        self._pending.append(call)
        self._drain()

    def _drain(self) -> None:
        started = time.monotonic()
        if started < self._retry_at:
            return
        try:
            if self._mlflow is None:
                self._mlflow = self._connect()
            client, run_id = self._mlflow.experiment, self._mlflow.run_id
            assert run_id is not None, "connected"
            while self._pending:
                try:
                    self._pending[0](client, run_id)
                except Exception as error:
                    if not _refused(error):
                        raise
                    self._warn("refused", f"refused a call, which is dropped: {error}")
                self._pending.popleft()
        except Exception as error:  # an outside service: whatever it raises, the training goes on
            spent = time.monotonic() - started
            self._retry_at = time.monotonic() + max(self.retry_seconds, 20 * spent)
            self._warn("silent", f"does not answer, will be tried again: {error}")

    def _connect(self) -> MLFlowLogger:
        if self.uri.startswith("http"):
            # By default a dead server blocks each call for about four minutes.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's use of SQLAlchemy
            from mlflow import MlflowClient

            client = MlflowClient(self.uri)
        if client.get_experiment_by_name(self.experiment_name) is None:
            client.create_experiment(
                self.experiment_name, artifact_location=_artifacts_of(self.uri)
            )
        run_id = self._continued(client)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
        inner = MLFlowLogger(self.experiment_name, self.run_name, self.uri, run_id=run_id)
        assert inner.run_id is not None, "asking for it opens the run"
        return inner

    def _continued(self, client: "MlflowClient") -> str | None:
        """The run to continue, or None with a warning when the store no longer has it."""
        from mlflow.exceptions import MlflowException

        if self._resumed_run_id is None:
            return None
        try:
            if client.get_run(self._resumed_run_id).info.lifecycle_stage == "active":
                return self._resumed_run_id
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        self._warn("gone", f"has no run {self._resumed_run_id} to continue; a new one is begun")
        return None

    def _warn(self, kind: str, words: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            # The client's own words may quote the address, password and all.
            text = plain(redact(f"MLflow at {self.uri} {' '.join(words.split())}")[:600])
            rank_zero_warn(f"{text}. Training goes on; everything is kept in {self.folder}")


def _refused(error: Exception) -> bool:
    """True where trying again cannot help: the server understood the call and will not have it."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    code = error.get_http_status_code()
    return 400 <= code < 500 and code not in (401, 403, 408, 429)


def _artifacts_of(uri: str) -> str | None:
    """`mlartifacts/` beside a sqlite file, not MLflow's ./mlruns; else the server's choice."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").resolve().as_uri()
