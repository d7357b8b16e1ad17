"""One run on an MLflow server: opened or found again, and what it takes."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ceeh.tracking.outbox import Outbox

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric


# MLflow reads these when it is first imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

KEY_TAG = "ceeh.outbox"
MAX_METRICS, MAX_PARAMS, MAX_PARAM_LENGTH = 1000, 100, 250
Entry = Mapping[str, Any]


class Refused(Exception):
    """The server understood and will not have it: trying again cannot help."""

    kind = "refused"


class Gone(Refused):
    """A file that was to be sent is no more."""

    kind = "gone file"


class MLflowRun:
    """Takes entries of an outbox: one of the kinds below each, all harmless when taken twice.

    {"metrics": {name: value}, "step": n, "time": ms}, {"params": {...}}, {"tags": {...}},
    {"text": ..., "to": file}, {"file": path, "to": folder}, {"status": ...}; paths relative to `folder`.
    """

    def __init__(self, client: "MlflowClient", run_id: str, folder: Path) -> None:
        self.client, self.run_id, self.folder = client, run_id, folder

    @classmethod
    def open(cls, outbox: Outbox, warn: Callable[[str, str], None]) -> "MLflowRun":
        """The outbox's run on its server, begun when there is none; then all entries are to be sent."""
        state = outbox.state
        if state["uri"].startswith("http"):
            # By default a dead server blocks each call for about four minutes, and tells each retry.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        from mlflow import MlflowClient

        client = MlflowClient(state["uri"])
        run_id = state["run_id"]
        if run_id and not _is_there(client, run_id):
            warn("gone", f"has no run {run_id} to continue; a new one is begun")
            outbox.note(run_id=None, sent=0)
            run_id = None
        if run_id is None:
            outbox.note()  # the key, by which the run is found should its number not be noted
            run_id = _begun(client, state)
            outbox.note(run_id=run_id)
        client.update_run(run_id, status="RUNNING")
        return cls(client, run_id, outbox.folder)

    @staticmethod
    def together(entries: Sequence[tuple[Entry, int]]) -> tuple[int, int]:
        """How many of the first entries can be sent in one call, and the byte behind them."""
        count = values = 0
        for entry, _ in entries:
            values += len(entry.get("metrics", ()))
            if count and ("metrics" not in entry or values > MAX_METRICS):
                break
            count += 1
            if "metrics" not in entry:
                break
        return count, entries[count - 1][1]

    def take(self, entries: Sequence[Entry]) -> None:
        """Sends entries that go `together`. Raises Refused, after the rest was sent, or what failed."""
        entry = entries[0]
        try:
            if "metrics" in entry:
                self._metrics([metric for entry in entries for metric in _metrics_of(entry)])
            elif "params" in entry:
                self._params(entry["params"])
            elif "tags" in entry:
                from mlflow.entities import RunTag

                tags = [RunTag(name, str(value)) for name, value in entry["tags"].items()]
                self.client.log_batch(self.run_id, tags=tags)
            elif "text" in entry:
                self.client.log_text(self.run_id, entry["text"], entry["to"])
            elif "file" in entry:
                file = self.folder / entry["file"]
                if not file.is_file():
                    raise Gone(f"there is no file {file} any more")
                self.client.log_artifact(self.run_id, str(file), entry["to"])
            elif entry["status"] == "RUNNING":
                self.client.update_run(self.run_id, "RUNNING")
            else:
                self.client.set_terminated(self.run_id, entry["status"])
        except Exception as error:
            if is_refusal(error) and not isinstance(error, Refused):
                raise Refused(str(error)) from error
            raise

    def _metrics(self, metrics: "Sequence[Metric]") -> None:
        """Halves what is refused, so that one bad name does not take others with it."""
        try:
            self.client.log_batch(self.run_id, metrics=metrics)
        except Exception as error:
            if len(metrics) == 1 or not is_refusal(error):
                raise
            refusals = []
            middle = len(metrics) // 2
            for half in (metrics[:middle], metrics[middle:]):
                try:
                    self._metrics(half)
                except Exception as inner:
                    if not is_refusal(inner):
                        raise
                    refusals.append(inner)
            raise refusals[0] from error

    def _params(self, params: Mapping[str, Any]) -> None:
        """Those the run has stay: MLflow's parameters cannot be changed."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        new = [Param(k, str(v)[:MAX_PARAM_LENGTH]) for k, v in params.items() if k not in known]
        for start in range(0, len(new), MAX_PARAMS):
            self.client.log_batch(self.run_id, params=new[start : start + MAX_PARAMS])


def is_refusal(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, Refused):
        return True
    if not isinstance(error, MlflowException):
        return False
    code = error.get_http_status_code()
    return 400 <= code < 500 and code not in (401, 403, 408, 429)


def _metrics_of(entry: Entry) -> "list[Metric]":
    from mlflow.entities import Metric

    at = entry["time"], entry["step"]
    return [Metric(name, value, *at) for name, value in entry["metrics"].items()]


def _is_there(client: "MlflowClient", run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _begun(client: "MlflowClient", state: Mapping[str, Any]) -> str:
    """A new run, or the one that a lost answer or a crash kept from being noted."""
    from mlflow.tracking.context.registry import resolve_tags

    experiment = client.get_experiment_by_name(state["experiment"])
    if experiment is None:
        artifacts = _artifacts_of(state["uri"])
        experiment_id = client.create_experiment(state["experiment"], artifact_location=artifacts)
    else:
        experiment_id = experiment.experiment_id
        lost = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = {json.dumps(state['key'])}")
        if lost:
            return lost[0].info.run_id
    tags = resolve_tags({KEY_TAG: state["key"]})
    return client.create_run(experiment_id, tags=tags, run_name=state["run_name"]).info.run_id


def _artifacts_of(uri: str) -> str | None:
    """`mlartifacts/` beside a sqlite file, not MLflow's ./mlruns; else the server's choice."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").resolve().as_uri()
