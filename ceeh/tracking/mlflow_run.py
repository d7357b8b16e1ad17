"""One run on an MLflow server: found or created, and the calls that write to it."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)

from ceeh.tracking.sqlite_store import make_store, sqlite_file

KEY_TAG = "ceeh.key"
STEP_PARAM = "rollout_step"
HELD_OUT = "eval/"
"""Metrics of a policy on held-out questions; after step 0 they belong to its LoggedModel."""
EVALUATION = "evaluation"
"""What MLflow calls the use of a held-out data set."""


def open_client(uri: str) -> MlflowClient:
    """A client of `uri`, whose database in a file is made if it is missing."""
    make_store(uri)
    return MlflowClient(uri)


def find_or_create(client: MlflowClient, state: Mapping[str, Any]) -> Run:
    """The run with the key of `state` (see `GuardedMLFlowLogger`), whose id may never have arrived."""
    name, uri = state["experiment"], state["uri"]
    if experiment := client.get_experiment_by_name(name):
        number = experiment.experiment_id
        if found := find_run(client, number, state["key"]):
            return found
    else:
        # Next to the database: MLflow's own choice is ./mlruns, wherever the process was started.
        file = sqlite_file(uri)
        artifacts = file and (file.parent / "mlartifacts").resolve().as_uri()
        number = client.create_experiment(name, artifact_location=artifacts)
    tags = resolve_tags({KEY_TAG: state["key"]})
    if parent := find_run(client, number, state["parent"]):
        tags[MLFLOW_PARENT_RUN_ID] = parent.info.run_id
    started = state["started"]
    return client.create_run(number, started, tags=tags, run_name=state["run_name"])


def find_run(client: MlflowClient, experiment_id: str, key: str | None) -> Run | None:
    """The run with the `key`; None without one, and for no key."""
    if key is None:
        return None
    found = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = {json.dumps(key)}")
    return found[0] if found else None


def address(uri: str, run: Run) -> str:
    """Where a browser shows the run; the view of training runs, not MLflow's first choice, GenAI."""
    page = f"#/experiments/{run.info.experiment_id}/runs/{quote(run.info.run_id)}"
    page = f"{page}?workflowType=machine_learning"
    if uri.startswith(("http://", "https://")):
        return f"{uri.rstrip('/')}/{page}"
    return f"http://127.0.0.1:5000/{page} (mlflow ui --backend-store-uri {uri})"


def send(client: MlflowClient, run: Run, entry: Mapping[str, Any], folder: Path) -> list[str]:
    """Delivers an entry of `GuardedMLFlowLogger`; files are relative to `folder`. Twice does no harm.

    Returns the reasons for what the server rejected, which is dropped. Raises any other error.
    """
    run_id = run.info.run_id
    log_batch = partial(client.log_batch, run_id)
    match entry:
        case {"metrics": points}:
            of_step, reasons = _policies(client, run, points)
            metrics = [Metric(*point, **of_step.get(_policy_of(point), {})) for point in points]
            log = _attempt(lambda m: log_batch(metrics=m), metrics, MAX_METRICS_PER_BATCH)
            return reasons + log
        case {"params": params}:
            known = client.get_run(run_id).data.params  # MLflow never changes these
            new = [Param(k, v[:MAX_PARAM_VAL_LENGTH]) for k, v in params.items() if k not in known]
            return _attempt(lambda p: log_batch(params=p), new, MAX_PARAMS_TAGS_PER_BATCH)
        case {"tags": tags}:
            items = [RunTag(*tag) for tag in tags.items()]
            return _attempt(lambda t: log_batch(tags=t), items, MAX_PARAMS_TAGS_PER_BATCH)
        case {"datasets": datasets}:
            inputs = [
                DatasetInput(
                    Dataset(**each["facts"]), [InputTag(MLFLOW_DATASET_CONTEXT, each["use"])]
                )
                for each in datasets
            ]
            return _attempt(lambda each: client.log_inputs(run_id, each), inputs, len(inputs))
        case {"weights": places}:
            return _attempt(lambda _: _keep_models(client, run, places), [places])
        case {"file": file, "to": artifact_path}:
            path = folder / file
            if not path.is_file():
                return [f"the file {path} no longer exists"]
            return _attempt(lambda _: client.log_artifact(run_id, str(path), artifact_path), [file])
        case {"status": "RUNNING"}:
            return _attempt(lambda _: client.update_run(run_id, "RUNNING"), [entry])
        case _:
            end = partial(client.set_terminated, run_id, entry["status"], entry.get("ms"))
            return _attempt(lambda _: end(), [entry])


def _policy_of(point: Sequence[Any]) -> int:
    """The step of the policy that a metric is of, if it has a LoggedModel; else 0."""
    name, _, _, step = point
    return step if name.startswith(HELD_OUT) else 0


def _policies(
    client: MlflowClient, run: Run, points: Sequence[Sequence[Any]]
) -> tuple[dict[int, dict[str, str]], list[str]]:
    """By step what links a metric to its LoggedModel and data set; and what the server rejected."""
    steps = sorted({_policy_of(point) for point in points} - {0})
    if not steps:
        return {}, []
    of_step: dict[int, dict[str, str]] = {}

    def find(each: Sequence[int]) -> None:
        owner = client.get_run(run.data.tags.get(MLFLOW_PARENT_RUN_ID, run.info.run_id))
        of_step[each[0]] = {"model_id": _model(client, owner, each[0]).model_id}

    reasons = _attempt(find, steps)
    used = [
        each.dataset
        for each in client.get_run(run.info.run_id).inputs.dataset_inputs  # type: ignore[union-attr]
        if any(tag.value == EVALUATION for tag in each.tags)
    ]
    if len(used) == 1:
        data = {"dataset_name": used[0].name, "dataset_digest": used[0].digest}
        of_step = {step: link | data for step, link in of_step.items()}
    return of_step, reasons


def _models(client: MlflowClient, owner: Run) -> dict[str, LoggedModel]:
    """The LoggedModels of the run `owner` by rollout step."""
    mine = f"source_run_id = '{owner.info.run_id}'"
    where, found = [owner.info.experiment_id], []
    token: str | None = ""
    while token is not None:
        page = client.search_logged_models(where, mine, page_token=token or None)
        found += page
        token = page.token or None
    return {model.params[STEP_PARAM]: model for model in found if STEP_PARAM in model.params}


def _model(client: MlflowClient, owner: Run, step: int) -> LoggedModel:
    """The LoggedModel of the policy of `owner` after rollout step `step`; made if there is none."""
    if known := _models(client, owner).get(str(step)):
        return known
    name = "".join(c if c.isalnum() or c in "_-" else "-" for c in owner.info.run_name or "run")
    model = client.create_logged_model(
        owner.info.experiment_id,
        name=f"{name}-step-{step}",
        source_run_id=owner.info.run_id,
        params={STEP_PARAM: str(step)},
    )
    client.log_outputs(owner.info.run_id, [LoggedModelOutput(model.model_id, step)])
    return client.finalize_logged_model(model.model_id, "READY")


def _keep_models(client: MlflowClient, run: Run, places: Mapping[str, str]) -> None:
    """Tags each LoggedModel with the place of its weights; deletes those whose weights are gone."""
    for step, model in _models(client, run).items():
        if step in places:
            client.set_logged_model_tags(model.model_id, {"weights": places[step]})
        else:
            client.delete_logged_model(model.model_id)


def _attempt(call: Callable[[Sequence], Any], items: Sequence, limit: int = 1) -> list[str]:
    """Splits what exceeds one call, and what is rejected, so that a bad item is dropped alone."""
    if not items:
        return []
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
