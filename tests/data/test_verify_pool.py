"""Worker processes: killed, dead, late or unable to start, and what that costs."""

import os
import signal
import subprocess
import sys

import pytest

from ceeh.data.verify_pool import SCRIPT, WorkerPool
from ceeh.types import Outcome
from tests.data.scoring import ERROR, RIGHT, WRONG, verdict


def test_a_killed_worker_costs_only_its_answer():
    pool = WorkerPool(workers=1, timeout_seconds=30, memory_mib=512)
    assert pool.judge([("x", "x")])[0].score == 1
    (worker,) = pool.workers
    send = worker.send

    def send_and_kill(*arguments):
        sent = send(*arguments)
        os.kill(worker.process.pid, signal.SIGKILL)
        return sent

    worker.send = send_and_kill
    verdicts = pool.judge([(r"\sqrt2", "9^{9^9}"), ("x", "x"), ("x", "y")])
    assert [(v.score, v.outcome) for v in verdicts] == [ERROR, RIGHT, WRONG]
    assert pool.workers[0] is not worker
    pool.close()


def test_a_worker_that_died_while_idle_costs_nothing():
    pool = WorkerPool(workers=1, timeout_seconds=30, memory_mib=512)
    assert pool.judge([("x", "x")])[0].score == 1
    pool.workers[0].process.kill()
    pool.workers[0].process.wait()
    assert [v.score for v in pool.judge([("x", "x"), ("x", "y")])] == [1, 0]
    pool.close()


def test_close_ends_the_workers_and_a_later_call_starts_new_ones(mathematics):
    assert verdict(mathematics, "x", r"\boxed{x}") == RIGHT
    processes = [worker.process for worker in mathematics.pool.workers]
    mathematics.close()
    mathematics.close()
    assert processes
    assert all(process.poll() == -signal.SIGKILL for process in processes)
    assert verdict(mathematics, "x", r"\boxed{x}") == RIGHT


@pytest.mark.parametrize(
    ("task", "status"), [(b"", 0), (b'["\\\\sqrt2", "9^{9^9}"]\n', -signal.SIGPROF)]
)
def test_a_worker_ends_without_its_parent_idle_or_in_c_code(task, status):
    with subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT), "0.5", "512"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.read(1) == b"+"
        worker.stdin.write(task)
        worker.stdin.close()  # as the kernel does when the parent dies
        assert worker.wait(60) == status


def test_a_worker_that_neither_works_nor_replies_is_killed_by_the_clock(monkeypatch, tmp_path):
    asleep = tmp_path / "asleep.py"
    asleep.write_text("import os, time; os.write(1, b'+'); time.sleep(600)")
    monkeypatch.setattr("ceeh.data.verify_pool.SCRIPT", asleep)
    pool = WorkerPool(workers=2, timeout_seconds=0.02, memory_mib=512)
    assert [v.outcome for v in pool.judge([("x", "x"), ("x", "y")])] == [Outcome.TIMEOUT] * 2
    assert pool.workers == []


def test_workers_that_cannot_start_are_an_error_that_says_how_to_look(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(1)")
    monkeypatch.setattr("ceeh.data.verify_pool.SCRIPT", broken)
    pool = WorkerPool(workers=2, timeout_seconds=1, memory_mib=512)
    with pytest.raises(
        RuntimeError, match=r"3 verification workers stopped .* run '.*broken.py 1 512'"
    ):
        pool.judge([("x", "x")])
    pool.close()


def test_a_worker_imports_no_heavy_library():
    program = (
        "import sys, ceeh.data.verify_worker;"
        "print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "set()"
