"""Tracking against servers that die, come back and never answer: nothing is lost, nothing waits."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import pytest

from ceeh.tracking import sender
from ceeh.tracking.__main__ import main
from ceeh.tracking.logger import GuardedMLFlowLogger
from fault_injection.servers import MLflowServer, SilentServer, free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One real server for the file; a test that kills it starts it again."""
    made = MLflowServer(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch):
    """Each test gives back what the client reads; a short patience, for the silent ones."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for name, value in (("TIMEOUT", "20"), ("MAX_RETRIES", "0"), ("BACKOFF_FACTOR", "1")):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)


@pytest.fixture
def tracked(tmp_path):
    made = []

    def build(uri: str, **options) -> GuardedMLFlowLogger:
        settings = {"experiment": "exp", "run_name": "run", "folder": tmp_path / "run"}
        made.append(GuardedMLFlowLogger(uri=uri, retry_seconds=0.1, **(settings | options)))
        return made[-1]

    yield build
    for logger in made:
        logger.close()


def history(uri: str, run_id: str | None, name: str = "a") -> list[tuple[int, float]]:
    assert run_id is not None
    found = mlflow.MlflowClient(uri).get_metric_history(run_id, name)
    return [(metric.step, metric.value) for metric in found]


def log(logger: GuardedMLFlowLogger, *steps: int) -> None:
    for step in steps:
        logger.log_metrics({"rollout/step": float(step), "a": step / 2}, step=step - 1)


def until(holds) -> bool:
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_what_a_dying_server_missed_is_sent_in_order_to_the_same_run(server, tracked, caplog):
    logger = tracked(server.uri)
    log(logger, 1, 2)
    assert logger.sender.flush()
    run_id = logger.run_id
    server.kill()
    log(logger, *range(3, 40))
    logger.log_file(logger.outbox.path, "files")
    assert until(lambda: "does not answer" in caplog.text)
    server.start()
    log(logger, 40)
    assert until(lambda: logger.outbox.is_empty)  # by itself: nobody flushes
    assert history(server.uri, run_id) == [(step, step / 2) for step in range(1, 41)]
    assert [f.path for f in mlflow.MlflowClient(server.uri).list_artifacts(run_id, "files")] == [
        "files/mlflow.jsonl"
    ]
    assert logger.run_id == run_id
    assert caplog.text.count("does not answer, will be tried again") == 1


def test_a_server_that_was_absent_gets_all_later_from_the_folder(server, tracked, caplog, capsys):
    absent = tracked(f"http://me:hunter2@127.0.0.1:{free_port()}")
    absent.log_config("seed: 3\n", tags={"data": "d"})
    log(absent, 1, 2, 3)
    absent.finish()
    absent.finish()
    assert absent.run_id is None
    assert caplog.text.count("does not answer, will be tried again") == 1
    assert "hunter2" not in caplog.text
    # Two finishes: FINISHED, and RUNNING, FINISHED again.
    told = "9 entries for MLflow were not sent; send them later with: python -m ceeh.tracking "
    assert f"{told}{absent.folder}" in caplog.text
    assert main([str(absent.folder), "--uri", server.uri]) == 0
    assert capsys.readouterr().out == f"{absent.folder}: 9 of 9 entries sent to {server.uri}\n"
    again = tracked(server.uri)
    run = mlflow.MlflowClient(server.uri).get_run(again.run_id)
    assert (run.info.status, run.data.params["seed"]) == ("FINISHED", "3")
    assert history(server.uri, again.run_id) == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert main([str(absent.folder)]) == 0  # all is there
    assert capsys.readouterr().out.endswith(f"0 of 0 entries sent to {server.uri}\n")


def test_a_folder_that_was_never_tracked_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no mlflow.json: it was never tracked" in capsys.readouterr().err


@pytest.mark.parametrize("drops", [False, True], ids=["accepts", "drops"])
def test_a_silent_server_blocks_neither_logging_nor_the_end(drops, tracked, monkeypatch, caplog):
    monkeypatch.setattr(sender, "FLUSH_SECONDS", 0.2)
    silent = SilentServer(drops=drops)
    logger = tracked(silent.uri)
    before = threading.active_count()
    log(logger, *range(1, 200))
    # Nothing above waited for the server: its thread still does, for its first answer.
    assert threading.active_count() == before + 1
    assert not logger.sender._failing
    logger.finish()
    logger.close()
    assert "200 entries for MLflow were not sent" in caplog.text
    silent.close()


ENDING = """
import sys
from pathlib import Path
from ceeh.tracking.logger import GuardedMLFlowLogger
logger = GuardedMLFlowLogger(uri=sys.argv[1], experiment="e", run_name="r", folder=Path(sys.argv[2]))
logger.log_metrics({"a": 1.0})
print("logged", flush=True)
"""


def test_a_process_ends_while_its_server_is_silent(tmp_path):
    silent = SilentServer(drops=False)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_HTTP_REQUEST_TIMEOUT": "600"}
    ended = subprocess.run(
        [sys.executable, "-c", ENDING, silent.uri, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    silent.close()
    assert (ended.returncode, ended.stdout) == (0, "logged\n")
    assert "1 entries for MLflow were not sent; send them later with: python -m" in ended.stderr
