"""Worker processes: killed, dead, late or unable to start, and what that costs."""

import os
import pickle
import signal
import subprocess
import sys

import pytest

from ceeh.data.verify.base import outcome_counts
from ceeh.data.verify.math_answer import MATH_GRADER
from ceeh.data.verify.pool import Tasks, WorkerPool
from ceeh.types import Outcome
from tests.data.verify.scoring import DIED, RIGHT, WRONG, group, verdict


def test_a_killed_worker_costs_only_its_answer():
    pool = WorkerPool(MATH_GRADER, {}, workers=1, timeout_seconds=30, memory_mib=512)
    assert pool.judge([("x", "x")])[0].score == 1
    (worker,) = pool.workers
    send = worker.send

    def send_and_kill(*arguments):
        sent = send(*arguments)
        os.kill(worker.process.pid, signal.SIGKILL)
        return sent

    worker.send = send_and_kill
    verdicts = pool.judge([(r"\sqrt2", "9^{9^9}"), ("x", "x"), ("x", "y")])
    assert [(v.score, v.outcome) for v in verdicts] == [DIED, RIGHT, WRONG]
    assert pool.workers[0] is not worker
    pool.close()


def test_a_worker_that_died_while_idle_costs_nothing():
    pool = WorkerPool(MATH_GRADER, {}, workers=1, timeout_seconds=30, memory_mib=512)
    assert pool.judge([("x", "x")])[0].score == 1
    pool.workers[0].process.kill()
    pool.workers[0].process.wait()
    assert [v.score for v in pool.judge([("x", "x"), ("x", "y")])] == [1, 0]
    pool.close()


def test_close_ends_the_workers_and_a_later_call_starts_new_ones(mathematics):
    assert verdict(mathematics, "x+1", r"\boxed{1+x}") == RIGHT
    processes = [worker.process for worker in mathematics.pool.workers]
    mathematics.close()
    mathematics.close()
    assert processes
    assert all(process.poll() == -signal.SIGKILL for process in processes)
    assert verdict(mathematics, "x+1", r"\boxed{1+x}") == RIGHT


def test_a_worker_ends_when_its_tasks_do_and_in_c_code():
    pool = WorkerPool(MATH_GRADER, {}, workers=1, timeout_seconds=0.5, memory_mib=512)
    for task, status in ((b"", 0), (pickle.dumps([(r"\sqrt2", "9^{9^9}")]), -signal.SIGPROF)):
        with subprocess.Popen(
            pool.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            assert worker.stdout.readline() == b'["ready"]\n'
            worker.stdin.write(task)
            worker.stdin.close()
            assert worker.wait(60) == status


def test_a_worker_that_neither_works_nor_replies_is_killed_by_the_clock(monkeypatch, tmp_path):
    asleep = tmp_path / "asleep.py"
    asleep.write_text("import os, time; os.write(1, b'[\"ready\"]\\n'); time.sleep(600)")
    monkeypatch.setattr("ceeh.data.verify.pool.SCRIPT", asleep)
    pool = WorkerPool(MATH_GRADER, {}, workers=2, timeout_seconds=0.02, memory_mib=512)
    assert [v.outcome for v in pool.judge([("x", "x"), ("x", "y")])] == [Outcome.TIMEOUT] * 2
    assert pool.workers == []


def test_workers_that_cannot_start_are_an_error_that_says_how_to_look(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(1)")
    monkeypatch.setattr("ceeh.data.verify.pool.SCRIPT", broken)
    pool = WorkerPool(MATH_GRADER, {}, workers=2, timeout_seconds=1, memory_mib=512)
    with pytest.raises(
        RuntimeError, match=r"3 verification workers stopped .* run '.*broken.py .*512"
    ):
        pool.judge([("x", "x")])
    pool.close()


def test_a_slow_answer_stalls_no_other(mathematics):
    groups = [
        group(r"\sqrt2", r"\boxed{9^{9^9}}"),
        *(group("x+1", f"\\boxed{{{n}+x}}") for n in range(9)),
    ]
    scored = mathematics(groups)
    assert [s.group for s in scored] == groups
    counts = outcome_counts(scored)
    assert (counts["ok"], counts["timeout"]) == (9, 1)
    assert [s.verdicts[0].score for s in scored] == [0.0, 0.0, 1.0] + [0.0] * 7


def test_equal_answers_are_judged_once(mathematics, monkeypatch):
    asked = []
    judge = mathematics.pool.judge

    def listen(pairs, stall_seconds):
        asked.extend(pairs)
        return judge(pairs, stall_seconds)

    monkeypatch.setattr(mathematics.pool, "judge", listen)
    scored = mathematics([group("x+1", *[r"\boxed{1+x}"] * 9), group("x+1", r"\boxed{1+x}")])
    assert [v.score for s in scored for v in s.verdicts] == [1.0] * 10
    assert asked == [("x+1", "1+x")]


def test_questions_take_turns_and_those_with_a_slow_answer_come_last():
    tasks = Tasks(
        [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "2"), ("c", "1")],
        lambda task: task[0],
    )
    order = [tasks.next(), tasks.next()]
    tasks.slow.add("a")
    order += [tasks.next() for _ in range(tasks.num_waiting)]
    assert order == [0, 3, 5, 4, 1, 2]  # a1 b1, then c1 b2 before what is left of a


SLOW = r"""
import os, pickle, sys, time
os.write(1, b'["ready"]\n')
while True:
    for _, seconds in pickle.load(sys.stdin.buffer):
        time.sleep(float(seconds))
        os.write(1, b'["ok", 0.0]\n')
    os.write(1, b'["ready"]\n')
"""


@pytest.fixture
def sleepers(monkeypatch, tmp_path):
    """A pool of two whose tasks are (question, seconds to sleep before the verdict 'wrong')."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    monkeypatch.setattr("ceeh.data.verify.pool.SCRIPT", script)
    pool = WorkerPool(MATH_GRADER, {}, workers=2, timeout_seconds=600, memory_mib=512)
    yield pool
    pool.close()


def test_a_call_ends_when_its_slow_answers_have_spent_their_time(sleepers, monkeypatch):
    monkeypatch.setattr("ceeh.data.verify.pool.FREE_FRACTION", 0.0)
    sleepers.timeout_seconds = 0.05  # how often the stall is looked at
    monkeypatch.setattr("ceeh.data.verify.pool.WALL_FACTOR", 12_000)
    verdicts = sleepers.judge([(f"slow {n}", "3600") for n in range(20)], stall_seconds=0.2)
    assert [v.outcome for v in verdicts] == [Outcome.TIMEOUT] * 20
    assert [v.outcome for v in sleepers.judge([("quick", "0"), ("other", "0")])] == [Outcome.OK] * 2


def test_quick_answers_do_not_stall_however_many(sleepers):
    """The first tenth of a limit is free: 2,000 answers of no time stall for none."""
    verdicts = sleepers.judge([(f"q{n}", "0") for n in range(2000)], stall_seconds=1e-9)
    assert [v.outcome for v in verdicts] == [Outcome.OK] * 2000


GREEDY = """
def build():
    return lambda mebi, _: ["ok", float(bool(bytes(2**20 * mebi)))]
"""


def test_a_worker_over_its_memory_costs_only_its_answer(tmp_path):
    judge = tmp_path / "greedy.py"
    judge.write_text(GREEDY)
    pool = WorkerPool(judge, {}, workers=1, timeout_seconds=60, memory_mib=512)
    outcomes = [v.outcome for v in pool.judge([(1, 0), (2048, 1), (1, 2)])]
    assert outcomes == [Outcome.OK, Outcome.MEMORY, Outcome.OK]
    pool.close()


def test_a_worker_imports_no_heavy_library():
    program = (
        "import sys, ceeh.types, ceeh.data.verify.worker;"
        "import ceeh.data.verify.math_worker, ceeh.data.verify.reward_worker;"
        "print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "set()"
