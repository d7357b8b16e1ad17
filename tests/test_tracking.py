"""The MLflow logger: everything arrives, secrets do not, and no server stops a run."""

import os
import socket
import time
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from ceeh.provenance import redact
from ceeh.tracking import GuardedMLFlowLogger


def test_secrets_are_hidden_by_key_and_in_addresses_and_limits_in_tokens_are_not():
    config = {
        "hub_token": "hf_1",
        "apiKey": "k",
        "engine": {"init_args": {"api_key": "k", "password": 7, "parts": [{"client_secret": "s"}]}},
        "uri": "https://me:pw@host/x, http://host",
        "max_prompt_tokens": 512,
        "tokenizer": "path",
        "secret": None,
    }
    assert redact(config) == {
        "hub_token": "[redacted]",
        "apiKey": "[redacted]",
        "engine": {
            "init_args": {
                "api_key": "[redacted]",
                "password": "[redacted]",
                "parts": [{"client_secret": "[redacted]"}],
            }
        },
        "uri": "https://[redacted]@host/x, http://host",
        "max_prompt_tokens": 512,
        "tokenizer": "path",
        "secret": None,
    }


@pytest.fixture(autouse=True)
def _own_address(monkeypatch):
    """Lightning sets the process's tracking address; each test gives it back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for name in ("TIMEOUT", "MAX_RETRIES", "BACKOFF_FACTOR"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "1")
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}")
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """One sqlite store for the file: making its tables takes seconds."""
    return tmp_path_factory.mktemp("store")


def tracked(store: Path, run_id: str | None = None, **options) -> GuardedMLFlowLogger:
    settings = {
        "uri": f"sqlite:///{store}/mlflow.db",
        "experiment": "exp",
        "run_name": "run",
        "folder": store / "runs" / "run",
    }
    return GuardedMLFlowLogger(**(settings | options), run_id=run_id)


CONFIG = "seed: 3\nrollouts: {steps: 60, note: NOTE}\nhub_token: hf_secret\n".replace(
    "NOTE", "n" * 900
)


def test_a_run_holds_metrics_configuration_and_artefacts(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    logger = tracked(store)
    assert logger.run_id is None
    logger.log_config(CONFIG, tags={"data": "https://u:p@host/d"})
    logger.log_metrics({"rollout/step": 5.0, "eval/pass@8": 0.5}, step=4)
    logger.log_metrics({"eval/tokens": 9.0}, step=4)
    logger.log_folder(tmp_path / "model", "model")
    logger.log_file(tmp_path / "model" / "weights", "loose")
    figure = {"value": 0.75, "low": 0.7, "high": 0.8}
    logger.log_summary({"tuned": {"hard": {"accuracy": figure}, "easy": {"accuracy": None}}})
    logger.finalize("success")

    client = mlflow.MlflowClient(logger.uri)
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["rollouts.steps"] == "60"
    assert len(run.data.params["rollouts.note"]) == 250
    assert run.data.params["hub_token"] == "[redacted]"
    assert run.data.tags["seed"] == "3"
    assert run.data.tags["data"] == "https://[redacted]@host/d"
    assert {"version.torch", "version.lightning", "version.mlflow"} <= set(run.data.tags)
    assert run.data.metrics["final/tuned/hard/accuracy"] == 0.75
    assert [
        (m.step, m.value) for m in client.get_metric_history(logger.run_id, "eval/pass_at_8")
    ] == [(5, 0.5)]
    assert client.get_metric_history(logger.run_id, "eval/tokens")[0].step == 5
    files = {path.relative_to(store / "mlartifacts" / logger.run_id / "artifacts").as_posix()
             for path in (store / "mlartifacts").rglob("*") if path.is_file()}  # fmt: skip
    assert files == {"config.yaml", "model/weights", "loose/weights", "summary.json"}
    saved = (store / "mlartifacts" / logger.run_id / "artifacts" / "config.yaml").read_text()
    assert "hf_secret" not in saved
    assert "n" * 900 in saved
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing in the working folder


def test_a_resumed_run_goes_on_in_the_same_run(store):
    first = tracked(store)
    first.log_config(CONFIG, tags={})
    first.log_metrics({"rollout/step": 1.0, "a": 1.0}, step=0)
    first.finalize("failed")
    second = tracked(store, run_id=first.run_id)
    second.log_config(
        CONFIG.replace("60", "90"), tags={}
    )  # a parameter cannot change: the YAML does
    second.log_metrics({"rollout/step": 2.0, "a": 2.0}, step=1)
    client = mlflow.MlflowClient(first.uri)
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    assert [m.step for m in client.get_metric_history(first.run_id, "a")] == [1, 2]
    second.finalize("success")
    assert client.get_run(first.run_id).info.status == "FINISHED"


def test_a_run_is_running_again_when_it_logs_after_lightning_ended_it(store):
    logger = tracked(store)
    status = []
    for step in range(2):
        logger.log_metrics({"a": 1.0}, step=step)
        status.append(mlflow.MlflowClient(logger.uri).get_run(logger.run_id).info.status)
        logger.finalize("success")
        status.append(mlflow.MlflowClient(logger.uri).get_run(logger.run_id).info.status)
    assert status == ["RUNNING", "FINISHED", "RUNNING", "FINISHED"]


def test_a_run_that_the_store_lost_is_begun_anew_with_a_warning(store):
    logger = tracked(store, run_id="0" * 32)
    with pytest.warns(UserWarning, match="no run 0000.* to continue; a new one is begun"):
        logger.log_metrics({"a": 1.0}, step=0)
    assert logger.run_id not in (None, "0" * 32)


def test_a_call_that_the_server_refuses_is_dropped_and_the_next_one_sent(store):
    logger = tracked(store)
    with pytest.warns(UserWarning, match="refused a call, which is dropped"):
        logger.log_metrics({"x" * 300: 1.0}, step=0)  # names have at most 250 characters
    logger.log_metrics({"a": 1.0}, step=0)
    assert mlflow.MlflowClient(logger.uri).get_run(logger.run_id).data.metrics == {"a": 1.0}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_down_warns_once_and_stops_nothing(store, recwarn):
    uri = f"http://me:hunter2@127.0.0.1:{closed_port()}"
    logger = tracked(store, uri=uri, retry_seconds=0.0)
    logger.log_config(CONFIG, tags={})
    for step in range(3):
        logger.log_metrics({"rollout/step": float(step)}, step=step)
    logger.finalize("success")
    assert logger.run_id is None
    (warning,) = [str(w.message) for w in recwarn if "MLflow" in str(w.message)]
    assert "does not answer, will be tried again" in warning
    assert str(store / "runs" / "run") in warning
    assert "hunter2" not in warning
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"


def test_what_a_dead_server_missed_is_sent_in_order_when_it_is_back(store, monkeypatch):
    logger = tracked(store, retry_seconds=0.05)
    logger.log_metrics({"rollout/step": 1.0, "a": 1.0}, step=0)
    with monkeypatch.context() as outage:

        def down(*args, **kwargs):
            raise MlflowException("connection refused")

        outage.setattr(mlflow.MlflowClient, "log_batch", down)
        with pytest.warns(UserWarning, match="does not answer"):
            logger.log_metrics({"rollout/step": 2.0, "a": 2.0}, step=1)
        logger.log_metrics({"rollout/step": 3.0, "a": 3.0}, step=2)
    time.sleep(0.1)
    logger.log_metrics({"rollout/step": 4.0, "a": 4.0}, step=3)
    history = mlflow.MlflowClient(logger.uri).get_metric_history(logger.run_id, "a")
    assert [(metric.step, metric.value) for metric in history] == [
        (s, float(s)) for s in range(1, 5)
    ]


def test_a_server_that_answers_slowly_with_an_error_is_left_alone_for_a_while(store, monkeypatch):
    calls = []

    def down(self):
        calls.append(None)
        raise OSError("no route")

    monkeypatch.setattr(GuardedMLFlowLogger, "_connect", down)
    logger = tracked(store, retry_seconds=60.0)
    with pytest.warns(UserWarning, match="no route"):
        logger.log_metrics({"a": 1.0}, step=0)
    for step in range(5):
        logger.log_metrics({"a": 1.0}, step=step)
    assert len(calls) == 1


def test_usage_reports_are_off():
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()
