"""The MLflow logger: everything arrives, secrets do not, and no server stops a run."""

import os
from pathlib import Path

import mlflow
import pytest

from ceeh.runtime.text import redact
from ceeh.tracking.logger import GuardedMLFlowLogger


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


@pytest.fixture
def tracked(store, tmp_path):
    """Builds loggers; a folder of its own for each test, and each is closed."""
    made = []

    def build(folder: Path = tmp_path / "run", **options) -> GuardedMLFlowLogger:
        settings = {"uri": f"sqlite:///{store}/mlflow.db", "experiment": "exp", "run_name": "run"}
        made.append(GuardedMLFlowLogger(**(settings | options), folder=folder))
        return made[-1]

    yield build
    for logger in made:
        logger.close()


CONFIG = "seed: 3\nrollouts: {steps: 60, note: NOTE}\nhub_token: hf_secret\n".replace(
    "NOTE", "n" * 900
)


def test_a_run_holds_metrics_configuration_and_artifacts(store, tracked, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    logger = tracked()
    assert logger.run_id is None
    logger.log_config(CONFIG, tags={"data": "https://u:p@host/d"})
    logger.log_metrics({"rollout/step": 5.0, "eval/pass@8": 0.5}, step=4)
    logger.log_metrics({"eval/tokens": 9.0}, step=4)
    logger.log_folder(tmp_path / "model", "model")
    logger.log_file(tmp_path / "model" / "weights", "loose")
    figure = {"value": 0.75, "low": 0.7, "high": 0.8}
    logger.log_summary({"tuned": {"hard": {"accuracy": figure}, "easy": {"accuracy": None}}})
    logger.finish()

    client = mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db")
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
    assert list((tmp_path / "here").iterdir()) == []


def client_of(logger: GuardedMLFlowLogger) -> mlflow.MlflowClient:
    """A client that sees what the logger's server has by now: the logger is flushed."""
    assert logger.sender.flush()
    return mlflow.MlflowClient(logger.outbox.state["uri"])


def history(logger: GuardedMLFlowLogger, name: str) -> list[tuple[int, float]]:
    metrics = client_of(logger).get_metric_history(logger.run_id, name)
    return [(metric.step, metric.value) for metric in metrics]


def test_a_resumed_run_goes_on_in_the_same_run(tracked):
    first = tracked()
    first.log_config(CONFIG, tags={})
    first.log_metrics({"rollout/step": 1.0, "a": 1.0}, step=0)
    first.finalize("failed")
    assert client_of(first).get_run(first.run_id).info.status == "FAILED"
    first.close()
    second = tracked()
    second.log_config(
        CONFIG.replace("60", "90"), tags={}
    )  # a parameter cannot change: the YAML does
    second.log_metrics({"rollout/step": 2.0, "a": 2.0}, step=1)
    client = client_of(second)
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    assert history(second, "a") == [(1, 1.0), (2, 2.0)]
    second.finish()
    assert client.get_run(first.run_id).info.status == "FINISHED"


def test_a_run_is_running_again_when_it_logs_after_lightning_ended_it(tracked):
    logger = tracked()
    status = []
    for step in range(2):
        logger.log_metrics({"a": 1.0}, step=step)
        status.append(client_of(logger).get_run(logger.run_id).info.status)
        logger.finalize("success")
        status.append(client_of(logger).get_run(logger.run_id).info.status)
    assert status == ["RUNNING", "FINISHED", "RUNNING", "FINISHED"]


def test_what_a_killed_process_had_not_sent_is_sent_by_the_one_that_resumes(tracked, tmp_path):
    killed = tracked()
    killed.log_metrics({"rollout/step": 1.0, "a": 1.0}, step=0)
    assert killed.sender.flush()
    killed.close()
    killed.sender.wake = lambda: None  # as one that dies before its thread comes to it
    killed.log_metrics({"rollout/step": 2.0, "a": 2.0}, step=1)
    with (tmp_path / "run" / "mlflow.jsonl").open("a") as file:
        file.write('{"metrics": {"a": 3')  # and in the middle of a line
    resumed = tracked()
    resumed.log_metrics({"rollout/step": 3.0, "a": 3.0}, step=2)
    assert history(resumed, "a") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert resumed.run_id == killed.run_id


def test_a_run_whose_number_was_not_noted_is_found_again(tracked, monkeypatch):
    created = []
    create = mlflow.MlflowClient.create_run

    def lost(self, *args, **kwargs):
        created.append(create(self, *args, **kwargs).info.run_id)
        raise OSError("the answer was lost")

    logger = tracked(retry_seconds=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_run", lost)
        logger.log_metrics({"a": 1.0}, step=0)
        assert not logger.sender.flush()
    assert history(logger, "a") == [(0, 1.0)]
    assert [logger.run_id] == created


def test_a_run_that_the_store_lost_is_begun_anew_with_everything(tracked, store, caplog):
    logger = tracked()
    logger.log_metrics({"a": 1.0}, step=0)
    lost = logger.run_id if logger.sender.flush() else None
    logger.close()
    client_of(logger).delete_run(lost)
    logger.close()
    again = tracked()
    again.log_metrics({"rollout/step": 1.0, "a": 2.0}, step=1)
    assert history(again, "a") == [(0, 1.0), (1, 2.0)]
    assert again.run_id != lost
    assert f"has no run {lost} to continue; a new one is begun" in caplog.text


def test_another_server_gets_everything(tracked, store):
    first = tracked()
    first.log_metrics({"a": 1.0}, step=0)
    assert first.sender.flush()
    first.close()
    other = tracked(uri=f"sqlite:///{store}/./mlflow.db", experiment="other")
    other.log_metrics({"rollout/step": 1.0, "a": 2.0}, step=1)
    assert history(other, "a") == [(0, 1.0), (1, 2.0)]


def test_what_the_server_refuses_is_dropped_alone(tracked, caplog):
    logger = tracked()
    # Names have at most 250 characters.
    logger.log_metrics({"a": 1.0, "x" * 300: 1.0, "b": 2.0, "y" * 300: 1.0}, step=0)
    logger.log_file(logger.folder / "nothing")
    logger.log_metrics({"c": 3.0}, step=0)
    metrics = client_of(logger).get_run(logger.run_id).data.metrics
    assert metrics == {"a": 1.0, "b": 2.0, "c": 3.0}
    refused, gone = [record.getMessage() for record in caplog.records]
    assert "refused something, which is dropped" in refused
    assert "there is no file" in gone


def test_a_forked_process_says_nothing(tracked):
    logger = tracked()
    logger.log_metrics({"a": 1.0}, step=0)
    assert logger.sender.flush()
    size = logger.outbox.path.stat().st_size
    logger._pid += 1  # what a fork of this process finds
    logger.log_metrics({"a": 2.0}, step=0)
    assert logger.outbox.path.stat().st_size == size


def test_usage_reports_are_off():
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()
