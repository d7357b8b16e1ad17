"""A run as the logger sees it: metrics.jsonl and an MLflow logger in one folder."""

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import mlflow
import mlflow.entities
import pytest

from ceeh.run.metrics_file import JSONLLogger
from ceeh.tracking import logger as tracking
from ceeh.tracking.logger import GuardedMLFlowLogger


class Run:
    """Logs as `fit` does; a second one in the same folder resumes from `resume_from`."""

    def __init__(self, uri: str, folder: Path, resume_from: int = 0, **options) -> None:
        self.folder, self.uri = folder, uri
        folder.mkdir(exist_ok=True)
        self.jsonl = JSONLLogger(folder)
        self.jsonl.resume_from_step(resume_from)
        settings = {"experiment": "exp", "run_name": "run"} | options
        self.mlflow = GuardedMLFlowLogger(uri=uri, folder=folder, **settings)
        self.mlflow.log_config("seed: 3\nrollouts: {steps: 60}\nhub_token: hf_secret\n")

    @cached_property
    def client(self) -> mlflow.MlflowClient:
        """Made when something is read: it makes the database itself, unless the logger has."""
        return mlflow.MlflowClient(self.uri)

    def log(self, *steps: int, **metrics: float) -> None:
        for step in steps:
            values = {"rollout/step": float(step), "a": step / 2} | metrics
            for logger in (self.jsonl, self.mlflow):
                logger.log_metrics(values, step=step - 1)

    def delivered(self) -> bool:
        """Waits for the thread."""
        deadline = time.monotonic() + 60
        while self.mlflow.num_waiting and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self.mlflow.num_waiting

    @property
    def run_id(self) -> str:
        return self.mlflow.state["run_id"]

    @property
    def stored(self) -> mlflow.entities.Run:
        assert self.delivered()
        return self.client.get_run(self.run_id)

    def history(self, name: str = "a") -> list[tuple[int, float]]:
        assert self.delivered()
        found = self.client.get_metric_history(self.run_id, name)
        return [(metric.step, metric.value) for metric in found]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Builds runs in one folder, which look and retry often, and closes them."""
    monkeypatch.setattr(tracking, "PACE_SECONDS", 0.02)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.1)
    made = []

    def build(uri: str, **options) -> Run:
        made.append(Run(uri, tmp_path / "run", **options))
        return made[-1]

    yield build
    for each in made:
        each.mlflow.close()
