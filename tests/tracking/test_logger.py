"""The MLflow logger with a sqlite store: everything arrives once, secrets do not."""

import math
from pathlib import Path

import mlflow
import pytest

from ceeh.tracking.logger import GuardedMLFlowLogger
from tests.run.test_metrics_file import FOREIGN, put_in


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """One sqlite store for the file: making its tables takes seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def uri(store) -> str:
    return f"sqlite:///{store}/mlflow.db"


def test_a_run_holds_metrics_configuration_and_artifacts(store, uri, run, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "run" / "model" / "deep").mkdir(parents=True)
    for file in ("model/weights", "model/deep/more", "config.yaml"):
        (tmp_path / "run" / file).write_text("w")
    (tmp_path / "outside").write_text("o")
    tracked = run(uri)
    tracked.log(5, **{"eval/pass@8": 0.5, "undefined": float("nan")})
    tracked.jsonl.log_metrics({"eval/tokens": 9.0}, step=4)
    tracked.mlflow.log_folder(tmp_path / "run" / "model", "model")
    tracked.mlflow.log_file(tmp_path / "outside", "loose")
    tracked.mlflow.finish()

    assert tracked.stored.info.status == "FINISHED"
    data = tracked.stored.data
    assert data.params["rollouts.steps"] == "60"
    assert data.params["hub_token"] == "[redacted]"
    assert data.tags["seed"] == "3"
    assert {"version.torch", "version.lightning", "version.mlflow"} <= set(data.tags)
    assert data.metrics.keys() == {"rollout/step", "a", "eval/pass_at_8", "eval/tokens"}
    for name, value in (("eval/pass_at_8", 0.5), ("eval/tokens", 9.0), ("a", 2.5)):
        assert tracked.history(name) == [(5, value)]
    artifacts = store / "mlartifacts" / tracked.run_id / "artifacts"
    files = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    assert files == {"config.yaml", "model/weights", "model/deep/more", "loose/outside"}
    assert list((tmp_path / "here").iterdir()) == []


def test_a_parameter_is_cut_at_what_the_server_holds_and_a_known_one_stays(uri, run):
    tracked = run(uri)
    tracked.mlflow.log_config("note: nnn\nnew: 1\n".replace("nnn", "n" * 6_001))
    tracked.mlflow.log_config("note: other\nnewer: 1\n")
    params = tracked.stored.data.params
    assert params["note"] == "n" * 6_000
    assert {"new", "newer"} <= params.keys()


def test_a_line_that_grows_is_delivered_once(uri, run):
    tracked = run(uri)
    tracked.log(1)
    assert tracked.history() == [(1, 0.5)]
    tracked.log(1, **{"eval/accuracy": 0.25})
    tracked.log(2)
    assert tracked.history() == [(1, 0.5), (2, 1.0)]
    assert tracked.history("eval/accuracy") == [(1, 0.25)]


def test_a_resumed_run_continues_the_same_run_from_its_checkpoint(uri, run):
    first = run(uri)
    first.log(1, 2, 3)
    first.mlflow.finalize("failed")
    assert first.stored.info.status == "FAILED"
    first.mlflow.close()
    second = run(uri, resume_from=1)  # metrics.jsonl is shorter than what was delivered of it
    second.mlflow.finalize("success")  # as Lightning does after a validate
    second.log(2, b=1.0)
    assert second.stored.info.status == "RUNNING"
    assert second.run_id == first.run_id
    assert sorted(set(second.history())) == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert second.history("b") == [(2, 1.0)]
    second.mlflow.finish()
    assert second.stored.info.status == "FINISHED"


def test_a_resumed_run_delivers_the_rest_of_a_killed_one(uri, run):
    killed = run(uri)
    killed.log(1)
    assert killed.delivered()
    killed.mlflow.close()
    killed.mlflow._loop = lambda: None  # a killed process delivers nothing more
    killed.log(2)
    killed.mlflow.log_values({"c@2": 3.0, "d": math.nan})
    with (killed.folder / "metrics.jsonl").open("a") as file:
        file.write('{"rollout_step": 3, "a": 3')
    assert killed.mlflow.num_waiting == 2
    resumed = run(uri, resume_from=2)
    resumed.log(3)
    assert resumed.history() == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert resumed.history("c_at_2") == [(0, 3.0)]
    assert resumed.run_id == killed.run_id


def test_lines_of_metrics_that_no_run_wrote_are_not_delivered(uri, run):
    first = run(uri)
    first.log(1, 2)
    assert first.delivered()
    first.mlflow.close()
    first.log(3)
    put_in(first.folder / "metrics.jsonl", FOREIGN, after=1)
    put_in(first.folder / "metrics.jsonl", FOREIGN, after=len(FOREIGN) + 2)
    names = {"experiment": "exp", "run_name": "run"}
    again = GuardedMLFlowLogger(uri=uri, folder=first.folder, **names)
    assert again.num_waiting == 1
    assert again.deliver()
    found = first.client.get_metric_history(first.run_id, "a")
    assert [metric.step for metric in found] == [1, 2, 3]


def test_a_closed_logger_starts_again_when_something_is_logged(uri, run):
    tracked = run(uri)
    tracked.log(1)
    tracked.mlflow.finish()
    tracked.mlflow.log_values({"c": 3.0})
    tracked.mlflow.finish()
    assert tracked.history("c") == [(0, 3.0)]


def test_a_run_whose_id_was_lost_is_found_again(uri, run, monkeypatch):
    created = []
    create = mlflow.MlflowClient.create_run

    def lost(self, *args, **kwargs):
        created.append(create(self, *args, **kwargs).info.run_id)
        raise OSError("the answer was lost")

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", lost)
    tracked = run(uri)
    tracked.log(1)
    assert tracked.history() == [(1, 0.5)]
    assert [tracked.run_id] == created


@pytest.mark.parametrize("accuracy", [0.25, 0.123456789])
def test_a_base_measured_again_is_delivered_and_the_lines_after_it_once(uri, run, accuracy):
    """Its line is shorter or longer, so that all others begin elsewhere."""
    first = run(uri)
    with first.jsonl.of_base(first.mlflow.log_base):
        first.jsonl.log_metrics({"eval/accuracy": 0.54321}, step=0)
    first.log(1, 2)
    assert first.history("eval/accuracy") == [(0, 0.54321)]
    first.mlflow.close()
    again = run(uri, resume_from=2)
    with again.jsonl.of_base(again.mlflow.log_base):
        again.jsonl.log_metrics({"eval/accuracy": accuracy}, step=0)
    again.jsonl.log_metrics({"b": 7.0}, step=2)  # an evaluation just after the resume
    again.log(3)
    assert again.history() == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert again.history("b") == [(2, 7.0)]
    assert again.history("eval/accuracy") == [(0, 0.54321), (0, accuracy)]


def test_a_run_deleted_in_the_store_is_delivered_again(uri, run):
    first = run(uri)
    first.log(1)
    lost = first.stored.info.run_id
    first.mlflow.close()
    first.client.delete_run(lost)
    again = run(uri, resume_from=1)
    again.log(2)
    assert again.history() == [(1, 0.5), (2, 1.0)]
    assert again.run_id != lost


def test_another_server_gets_everything(uri, store, run):
    first = run(uri)
    first.log(1)
    assert first.history() == [(1, 0.5)]
    first.mlflow.close()
    second = f"sqlite:///{store}/./mlflow.db"
    first.client.delete_run(first.run_id)
    other = run(second, resume_from=1)
    assert other.history() == [(1, 0.5)]
    assert other.run_id != first.run_id


def test_only_rejected_items_are_dropped(uri, run, caplog):
    tracked = run(uri)
    # Names have at most 250 characters.
    tracked.log(1, **{"x" * 300: 1.0, "b": 2.0, "y" * 300: 1.0})
    tracked.mlflow.log_file(tracked.folder / "nothing")
    tracked.mlflow.log_values({"c": 3.0})
    assert tracked.stored.data.metrics == {"rollout/step": 1.0, "a": 0.5, "b": 2.0, "c": 3.0}
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "rejected an item, which is dropped" in warning


def test_a_forked_process_delivers_nothing(uri, run):
    tracked = run(uri)
    assert tracked.delivered()
    tracked.mlflow._pid += 1  # what a fork of this process finds
    tracked.mlflow.log_values({"a": 2.0})
    assert tracked.mlflow.num_waiting == 0


def test_usage_reports_are_off():
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()
