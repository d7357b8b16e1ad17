"""Workers: a step per request, a clean end, and an error that shows the log."""

import sys
from pathlib import Path

import pytest

from benchmarks.worker import Worker

SCRIPT = """
from benchmarks.worker import Requests
requests = Requests()
for count in range(requests.job["steps"]):
    requests.wait()
    print("a library's noise")
    requests.answer(count=count)
raise SystemExit("no more steps")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "contestant.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "contestant"


def test_a_worker_answers_one_step_for_each_request(module: str, tmp_path: Path) -> None:
    with Worker(
        sys.executable, module, {"steps": 5, "threads": 1}, log=tmp_path / "worker.log"
    ) as worker:
        assert [worker.step()["count"] for _ in range(3)] == [0, 1, 2]
    assert worker.process.returncode == 0
    assert (tmp_path / "worker.log").read_text().count("a library's noise") == 3


def test_a_worker_that_ends_shows_the_end_of_its_log(module: str, tmp_path: Path) -> None:
    with Worker(
        sys.executable, module, {"steps": 1, "threads": 1}, log=tmp_path / "worker.log"
    ) as worker:
        worker.step()
        with pytest.raises(RuntimeError, match=r"(?s)the worker ended; the last.*no more steps"):
            worker.step()
