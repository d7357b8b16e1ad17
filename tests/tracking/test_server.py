"""Tracking servers that die, come back and never answer: nothing is lost, nothing waits."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ceeh.tracking import logger as tracking
from ceeh.tracking.__main__ import main
from fault_injection.servers import MLflowServer, SilentServer, free_port
from tests.tracking.conftest import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One real server for the file; a test that kills it starts it again."""
    made = MLflowServer(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


def test_a_restarted_server_gets_what_it_missed(server, run, caplog):
    tracked = run(server.uri)
    tracked.log(1, 2)
    assert tracked.delivered()
    run_id = tracked.run_id
    server.kill()
    tracked.log(*range(3, 40))
    tracked.mlflow.log_file(tracked.folder / "metrics.jsonl", "files")
    while "does not answer" not in caplog.text:
        time.sleep(0.02)
    server.start()
    tracked.log(40)
    assert tracked.history() == [(step, step / 2) for step in range(1, 41)]
    (file,) = tracked.client.list_artifacts(run_id, "files")
    assert file.path == "files/metrics.jsonl"
    assert tracked.run_id == run_id
    assert caplog.text.count("does not answer, retrying") == 1


def test_everything_can_be_delivered_later_from_the_folder(server, run, caplog, capsys):
    absent = run(f"http://me:hunter2@127.0.0.1:{free_port()}")
    absent.log(1, 2, 3)
    absent.mlflow.finish()
    absent.mlflow.close()
    assert absent.run_id is None
    assert caplog.text.count("does not answer, retrying") == 1
    assert "hunter2" not in caplog.text
    # Three lines, two statuses, parameters and tags.
    message = "7 entries for MLflow were not sent; send them later with: python -m ceeh.tracking "
    assert caplog.text.count(f"{message}{absent.folder}") == 1
    assert main([str(absent.folder), "--uri", server.uri]) == 0
    link, sent = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"MLflow: {server.uri}/#/experiments/\d+/runs/\w+\?workflowType=machine_learning", link
    )
    assert sent == f"{absent.folder}: 7 of 7 entries sent to {server.uri}"
    again = run(server.uri, resume_from=3)
    assert again.history() == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert again.stored.data.params["seed"] == "3"
    assert main([str(absent.folder)]) == 0  # all is there
    assert capsys.readouterr().out.endswith(f"0 of 0 entries sent to {server.uri}\n")


def test_a_folder_that_was_never_tracked_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no mlflow.json: it was not tracked" in capsys.readouterr().err


@pytest.mark.parametrize("drops", [False, True], ids=["accepts", "drops"])
def test_a_silent_server_does_not_block_logging_or_the_end(drops, run, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.2)
    silent = SilentServer(drops=drops)
    begin = time.monotonic()
    tracked: Run = run(silent.uri)
    tracked.log(*range(1, 200))
    assert "does not answer" not in caplog.text  # the thread still waits for its first answer
    tracked.mlflow.finish()
    assert time.monotonic() - begin < 10
    assert "203 entries for MLflow were not sent" in caplog.text
    silent.close()


ENDING = """
import sys
from pathlib import Path
from ceeh.tracking.logger import GuardedMLFlowLogger
logger = GuardedMLFlowLogger(uri=sys.argv[1], experiment="e", run_name="r", folder=Path(sys.argv[2]))
logger.log_values({"a": 1.0})
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
