"""One run on an MLflow server: found or created, and the calls that write to it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

KEY_TAG = "ceeh.key"
MAX_METRICS, MAX_PARAMS, MAX_PARAM_LENGTH = 1000, 100, 250


def find_or_create(client: MlflowClient, state: Mapping[str, Any]) -> str:
    """Id of the run with the key of `state` (see `GuardedMLFlowLogger`), whose id may never have arrived."""
    name, uri, key = state["experiment"], state["uri"], state["key"]
    if experiment := client.get_experiment_by_name(name):
        number = experiment.experiment_id
        if found := client.search_runs([number], f"tags.`{KEY_TAG}` = {json.dumps(key)}"):
            return found[0].info.run_id
    else:
        # Next to the database: MLflow's own choice is ./mlruns, wherever the process was started.
        file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
        artifacts = file and (file.parent / "mlartifacts").resolve().as_uri()
        number = client.create_experiment(name, artifact_location=artifacts)
    tags = resolve_tags({KEY_TAG: key})
    return client.create_run(number, tags=tags, run_name=state["run_name"]).info.run_id


def send(client: MlflowClient, run_id: str, entry: Mapping[str, Any], folder: Path) -> list[str]:
    """Delivers an entry of `GuardedMLFlowLogger`; files are relative to `folder`. Twice does no harm.

    Returns the reasons for what the server rejected, which is dropped. Raises any other error.
    """
    match entry:
        case {"metrics": points}:
            metrics = [Metric(*point) for point in points]
            return _attempt(lambda m: client.log_batch(run_id, metrics=m), metrics, MAX_METRICS)
        case {"params": params}:
            known = client.get_run(run_id).data.params  # MLflow never changes these
            new = [Param(k, v[:MAX_PARAM_LENGTH]) for k, v in params.items() if k not in known]
            return _attempt(lambda p: client.log_batch(run_id, params=p), new, MAX_PARAMS)
        case {"tags": tags}:
            items = [RunTag(*tag) for tag in tags.items()]
            return _attempt(lambda t: client.log_batch(run_id, tags=t), items, MAX_PARAMS)
        case {"file": file, "to": artifact_path}:
            path = folder / file
            if not path.is_file():
                return [f"the file {path} no longer exists"]
            return _attempt(lambda _: client.log_artifact(run_id, str(path), artifact_path), [file])
        case _:
            status = entry["status"]
            update = client.update_run if status == "RUNNING" else client.set_terminated
            return _attempt(lambda _: update(run_id, status), [status])


def _attempt(call: Callable[[Sequence], Any], items: Sequence, limit: int = 1) -> list[str]:
    """Splits what exceeds one call, and what is rejected, so that a bad item is dropped alone."""
    if len(items) <= limit:
        try:
            call(items)
            return []
        except MlflowException as error:
            code = error.get_http_status_code()
            if not 400 <= code < 500 or code in (401, 403, 408, 429):  # a retry may help
                raise
            if len(items) == 1:
                return [str(error)]
    middle = len(items) // 2
    return _attempt(call, items[:middle], limit) + _attempt(call, items[middle:], limit)
