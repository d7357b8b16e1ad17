"""The loggers: a line per rollout step through crash and resume; MLflow that stops no run."""

import json
import math
import os
import socket
import time
from pathlib import Path

import mlflow
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from mlflow.exceptions import MlflowException
from torch import nn
from torch.utils.data import DataLoader

from ceeh.provenance import redact
from ceeh.tracking import GuardedMLFlowLogger, JSONLLogger


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def log_steps(logger: JSONLLogger, steps: range) -> None:
    """What Lightning sends: a step's metrics, then an evaluation without `rollout/step`."""
    for step in steps:
        logger.log_metrics({"rollout/step": float(step), "reward/mean": step / 10}, step=step - 1)
        logger.log_metrics({"eval/accuracy": step / 100}, step=step - 1)
        logger.save()


def test_each_rollout_step_is_one_line_whatever_number_of_calls(tmp_path):
    log_steps(JSONLLogger(tmp_path), range(1, 3))
    assert rows_of(tmp_path) == [
        {
            "rollout_step": 1,
            "global_step": 0,
            "rollout/step": 1.0,
            "reward/mean": 0.1,
            "eval/accuracy": 0.01,
        },
        {
            "rollout_step": 2,
            "global_step": 1,
            "rollout/step": 2.0,
            "reward/mean": 0.2,
            "eval/accuracy": 0.02,
        },
    ]


def test_an_evaluation_before_the_first_step_is_line_zero(tmp_path):
    logger = JSONLLogger(tmp_path)
    logger.log_metrics({"eval/pass@8": 0.5}, step=0)
    logger.log_metrics({"rollout/step": 1.0}, step=0)
    first, second = rows_of(tmp_path)
    assert first == {"rollout_step": 0, "global_step": 0, "eval/pass_at_8": 0.5}
    assert second["rollout_step"] == 1


def test_undefined_and_infinite_values_are_null(tmp_path):
    JSONLLogger(tmp_path).log_metrics({"a": math.nan, "b": -math.inf, "c": 1.0}, step=0)
    assert rows_of(tmp_path) == [
        {"rollout_step": 0, "global_step": 0, "a": None, "b": None, "c": 1.0}
    ]


def test_a_resumed_run_leaves_the_file_of_one_that_never_stopped(tmp_path):
    log_steps(JSONLLogger(tmp_path / "whole"), range(1, 7))
    log_steps(JSONLLogger(tmp_path / "stopped"), range(1, 5))  # the checkpoint was of step 2
    path = tmp_path / "stopped" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"rollout_step": 5, "rewa')  # killed while writing
    resumed = JSONLLogger(tmp_path / "stopped")
    resumed.resume_from_step(2)
    log_steps(resumed, range(3, 7))
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_an_evaluation_just_after_a_resume_joins_the_checkpoints_line(tmp_path):
    log_steps(JSONLLogger(tmp_path), range(1, 4))
    resumed = JSONLLogger(tmp_path)
    resumed.resume_from_step(2)
    resumed.log_metrics({"eval/tokens": 7.0}, step=2)
    assert [row["rollout_step"] for row in rows_of(tmp_path)] == [1, 2]
    assert rows_of(tmp_path)[-1] | {"eval/tokens": 7.0, "reward/mean": 0.2} == rows_of(tmp_path)[-1]


class Steps(LightningModule):
    """Logs in a step and after it, as the real module and its callbacks do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer_of_one = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.optimizers().step()
        self.optimizers().step()
        self.log("rollout/step", float(batch_idx + 1))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.log("signal/late", 1.0)

    def validation_step(self, batch, batch_idx):
        self.log("eval/accuracy", 0.5, batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6 with torch 2.13
def test_lightning_writes_step_callback_and_validation_metrics_into_one_line(tmp_path):
    trainer = Trainer(
        logger=JSONLLogger(tmp_path),
        max_epochs=1,
        val_check_interval=1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Steps(), DataLoader([0.0, 1.0, 2.0]), DataLoader([0.0]))
    rows = rows_of(tmp_path)
    assert [row["rollout_step"] for row in rows] == [1, 2, 3]
    assert [row["global_step"] for row in rows] == [0, 1, 2]
    assert all(row["signal/late"] == 1.0 and row["eval/accuracy"] == 0.5 for row in rows)


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


def test_a_server_that_is_down_warns_once_quickly_and_stops_nothing(store, recwarn):
    uri = f"http://me:hunter2@127.0.0.1:{closed_port()}"
    began = time.monotonic()
    logger = tracked(store, uri=uri, retry_seconds=0.0)
    logger.log_config(CONFIG, tags={})
    for step in range(3):
        logger.log_metrics({"rollout/step": float(step)}, step=step)
    logger.finalize("success")
    assert time.monotonic() - began < 20
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
        calls.append(time.monotonic())
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
