"""Worker processes that are killed, late or unable to start, and what that costs."""

import os
import pickle
import signal
import subprocess
import sys

import pytest

from ceeh.data.verify.math_answer import MATH_GRADER
from ceeh.data.verify.pool import WorkerPool
from ceeh.errors import RunError
from ceeh.types import GradingOutcome
from tests.data.verify.scoring import CORRECT, DIED, INCORRECT, group, verdict

OK, TIMEOUT, MEMORY = GradingOutcome.OK, GradingOutcome.TIMEOUT, GradingOutcome.MEMORY
COMPARING = """
def build():
    return lambda one, other: ["ok", float(one == other)] if other != "tower" else 9**9**9
"""
TOWER = ("x", "tower")


@pytest.fixture
def make_pool(tmp_path, monkeypatch):
    """Makes a pool, of a grader with the given source, or of workers that run `script` instead."""
    pools = []

    def make(grader=None, *, script=None, size=1, timeout_seconds=30.0):
        for name, source in (("grader", grader), ("script", script)):
            (tmp_path / f"{name}.py").write_text(source or "")
        if script:
            monkeypatch.setattr("ceeh.data.verify.pool.SCRIPT", tmp_path / "script.py")
        path = tmp_path / "grader.py" if grader else MATH_GRADER
        limits = {"size": size, "timeout_seconds": timeout_seconds, "memory_mib": 512}
        arguments = {} if grader else {"sys_path": sys.path}
        pools.append(WorkerPool(grader=path, arguments=arguments, **limits))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def outcomes(verdicts):
    return [v.outcome for v in verdicts]


def test_a_killed_worker_costs_one_answer_and_none_if_it_was_idle(make_pool):
    pool = make_pool(COMPARING)
    assert pool.grade([("x", "x")])[0].score == 1
    (worker,) = pool.workers
    send = worker.send

    def send_and_kill(content):
        sent = send(content)
        os.kill(worker.process.pid, signal.SIGKILL)
        return sent

    worker.send = send_and_kill
    verdicts = pool.grade([TOWER, ("x", "x"), ("x", "y")])
    assert [(v.score, v.outcome) for v in verdicts] == [DIED, CORRECT, INCORRECT]
    assert pool.workers[0] is not worker
    pool.workers[0].process.kill()
    pool.workers[0].process.wait()
    assert [v.score for v in pool.grade([("x", "x"), ("x", "y")])] == [1, 0]


def test_close_ends_the_workers_and_a_later_call_starts_new_ones(mathematics):
    assert verdict(mathematics, "x^2-1", r"\boxed{(x+1)(x-1)}") == CORRECT
    processes = [worker.process for worker in mathematics.pool.workers]
    mathematics.close()
    mathematics.close()
    assert processes
    assert all(process.poll() == -signal.SIGKILL for process in processes)
    assert verdict(mathematics, "x^2-1", r"\boxed{(x+1)(x-1)}") == CORRECT


@pytest.mark.parametrize(
    ("content", "status"), [(b"", 0), (pickle.dumps([TOWER]), -signal.SIGPROF)]
)
def test_a_worker_ends_with_its_tasks_and_in_c_code(make_pool, content, status):
    command = make_pool(COMPARING, timeout_seconds=0.5).command
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == b'["ready"]\n'
        worker.stdin.write(content)
        worker.stdin.close()
        assert worker.wait(60) == status


READY = "import os, pickle, sys, time; os.write(1, b'[\"ready\"]\\n');"


def test_a_worker_that_neither_works_nor_replies_is_killed_after_its_wall_time(make_pool):
    pool = make_pool(script=READY + "time.sleep(600)", size=2, timeout_seconds=0.02)
    assert outcomes(pool.grade([("x", "x"), ("x", "y")])) == [TIMEOUT] * 2
    assert pool.workers == []


def test_workers_that_cannot_start_are_an_error_that_says_how_to_look(make_pool):
    pool = make_pool(script="raise SystemExit(1)", size=2)
    with pytest.raises(RunError, match=r"3 verification workers ended .* run '.*script.py .*512"):
        pool.grade([("x", "x")])
    assert pool.workers == []


def test_an_interrupted_call_leaves_no_busy_worker(make_pool, monkeypatch):
    pool = make_pool(COMPARING)
    monkeypatch.setattr(pool, "_receive", lambda *_: sys.exit())
    with pytest.raises(SystemExit):
        pool.grade([TOWER])
    assert pool.workers == []


def test_equal_answers_are_graded_once(mathematics, monkeypatch):
    graded = []
    grade = mathematics.pool.grade
    monkeypatch.setattr(
        mathematics.pool,
        "grade",
        lambda pairs, *limit: graded.extend(pairs) or grade(pairs, *limit),
    )
    answer = r"\boxed{(x+1)(x-1)}"
    scored = mathematics([group("x^2-1", *[answer] * 9), group("x^2-1", answer)])
    assert [v.score for s in scored for v in s.verdicts] == [1.0] * 10
    assert len(graded) == 1


SLEEPING = "import time\ndef build(): return lambda _, s: time.sleep(float(s)) or ['ok', 0.0]"


def test_a_call_ends_when_its_slow_answers_have_used_its_time(make_pool, monkeypatch):
    monkeypatch.setattr("ceeh.data.verify.pool.FREE_FRACTION", 0.0)
    pool = make_pool(SLEEPING, size=2, timeout_seconds=0.5)
    slow = [(f"slow {n}", "3600") for n in range(20)]
    assert outcomes(pool.grade(slow, stall_seconds=0.2)) == [TIMEOUT] * 20
    assert outcomes(pool.grade([("quick", "0"), ("other", "0")])) == [OK] * 2


def test_quick_answers_do_not_stall_however_many(make_pool):
    """A tenth of the limit is free, so 2,000 instant answers do not stall."""
    pool = make_pool(SLEEPING, size=2, timeout_seconds=600)
    verdicts = pool.grade([(f"q{n}", "0") for n in range(2000)], stall_seconds=1e-9)
    assert outcomes(verdicts) == [OK] * 2000


def test_a_worker_over_its_memory_costs_only_its_answer(make_pool):
    pool = make_pool("def build(): return lambda mib, _: ['ok', float(bool(bytes(2**20 * mib)))]")
    assert outcomes(pool.grade([(1, 0), (2048, 1), (1, 2)])) == [OK, MEMORY, OK]


def test_a_worker_that_fills_up_is_replaced_and_loses_no_answer(make_pool):
    pool = make_pool(
        "kept = []\ndef build(): return lambda n, _: ['ok', float(not kept.append(bytes(2**25)))]"
    )
    pool.max_chunk = 8
    assert [v.score for v in pool.grade([(n, 0) for n in range(40)])] == [1.0] * 40
    assert pool.faults == {}


def test_a_worker_imports_no_heavy_library():
    program = (
        "import sys, ceeh.types, ceeh.data.verify.worker;"
        "import ceeh.data.verify.math_grader, ceeh.data.verify.reward_grader;"
        "print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "set()"
