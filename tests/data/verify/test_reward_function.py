"""RewardFunction: a fault of the user's code costs one answer, until too many answers fail."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from ceeh.config.component import Component
from ceeh.data.verify.base import outcome_counts
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.errors import ConfigError
from ceeh.types import FAILURES, Finish, GradingOutcome
from fault_injection import faults
from fault_injection.user_code import Watched, processes_of
from tests.data.verify.scoring import group, verdict

LIMITS = {"timeout_seconds": 1, "memory_mib": 512, "max_failed_fraction": 1.0}


@pytest.fixture(scope="module")
def tried():
    """One call with every fault between correct answers; its verifier."""
    verifier = Watched(workers=2, stall_seconds=600, timeout_seconds=1, memory_mib=512)
    groups = [group("7", "7", name, "8", uid=name) for name in faults.FAULTS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("ceeh.data.verify.reward_function"), "disabled", True)
        scored = verifier(groups)
    yield scored, verifier
    verifier.close()


def test_each_fault_costs_its_own_answer_and_is_counted_by_kind(tried):
    scored, _ = tried
    got = {name: s.verdicts[1].outcome for name, s in zip(faults.FAULTS, scored, strict=True)}
    assert got == {name: GradingOutcome(kind) for name, (kind, _) in faults.FAULTS.items()}
    assert all(s.verdicts[1].score == 0 for s in scored)
    others = [(s.verdicts[0].score, s.verdicts[2].score) for s in scored]
    assert others == [(1.0, 0.0)] * len(faults.FAULTS)
    assert set(got.values()) == FAILURES


def test_no_process_is_left_of_those_that_were_killed(tried):
    _, verifier = tried
    assert len(verifier.opened) > 5
    alive = {worker.process.pid for worker in verifier.pool.workers}
    assert processes_of(verifier.opened) == alive
    verifier.close()
    verifier.close()
    assert processes_of(verifier.opened) == set()


def test_verdicts_do_not_depend_on_the_number_of_workers_or_chunks():
    mixed = ["7", "raises", "returns nan", "8", "exits", "7.5"] * 3
    groups = [group("7", *mixed[n:], *mixed[:n], uid=str(n)) for n in range(3)]
    scored = []
    for workers, chunk in ((1, 64), (3, 2)):
        verifier = RewardFunction("fault_injection.faults.reward", workers=workers, **LIMITS)
        verifier.pool.max_chunk = chunk
        scored.append(verifier(groups))
        verifier.close()
    assert scored[0] == scored[1]
    assert outcome_counts(scored[0])["died"] == 9


def test_a_class_is_built_in_the_worker_and_a_function_takes_further_arguments():
    for name, arguments, response in (
        ("Reward", {"bonus": 0.25}, "8."),
        ("reward", {"scale": 0.25}, "7"),
    ):
        reward = RewardFunction(f"fault_injection.faults.{name}", arguments)
        assert verdict(reward, "7", response) == (0.25, GradingOutcome.OK)
        reward.close()


@pytest.mark.parametrize(
    ("body", "arguments", "message"),
    [
        ("score = 3", {}, "must be a function of prompt and response, or a class"),
        ("def score(response): return 1.0", {}, r"score' must take prompt and response \(too many"),
        ("def score(prompt, response): return 1.0", {"weight": 1}, "response and init_args"),
        ("raise SystemExit('no')", {}, "no"),
        ("import os; os._exit(3)", {}, "3 verification workers ended before they were ready"),
        ("import time; time.sleep(60)", {}, "1 verification worker ended .* ready after 1 s"),
        ("x = bytes(2**40)", {}, "fails while it is loaded .MemoryError"),
        ("class score:\n def __init__(self): 1 / 0", {}, "while it is built .ZeroDivisionError"),
        ("def other(): pass", {}, "has no 'score'"),
    ],
)
def test_an_invalid_reward_function_is_refused_before_any_rollout(
    tmp_path, body, arguments, message
):
    (tmp_path / "mine.py").write_text(body + "\n")
    given = {"class_path": f"{tmp_path}/mine.py:score", "init_args": arguments, "start_seconds": 1}
    with pytest.raises(ConfigError, match=rf"(?s)^verifier .*{message}"):
        Component("ceeh.data.verify.RewardFunction", given).build("verifier")


@pytest.mark.parametrize("child", ["return 1.0", "raise KeyError(response)", "raise SystemExit"])
def test_a_child_that_comes_back_from_a_fork_gives_no_answer(tmp_path, child):
    body = (
        "import os\nfirst = os.fork()\n"
        "def score(prompt, response):\n"
        f"    if response == 'forks' and os.fork() == 0: {child}\n"
        "    return 0.25\n"
    )
    (tmp_path / "mine.py").write_text(body)
    reward = RewardFunction(f"{tmp_path}/mine.py:score", workers=1)
    for _ in range(2):
        (scored,) = reward([group("7", "", "forks", "", "forks", "")])
        assert [verdict.score for verdict in scored.verdicts] == [0.25] * 5
    reward.close()


def test_a_function_that_no_other_process_can_import_is_refused():
    def closure(prompt, response):
        return 1.0

    for function in (lambda prompt, response: 1.0, closure, faults.Reward(1.0)):
        with pytest.raises(ConfigError, match=r"processes cannot import .*; define it at"):
            RewardFunction(function)
    with pytest.raises(ConfigError, match=r"max_failed_fraction must be in \[0, 1\], got 2"):
        RewardFunction("fault_injection.faults.reward", max_failed_fraction=2)


def test_the_first_failure_of_each_kind_is_logged_once_with_its_traceback(caplog):
    verifier = RewardFunction("fault_injection.faults.reward", **LIMITS)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            verifier([group("7", "raises", "7", "raises", "returns 1.5", uid="q1")])
    verifier.close()
    logged = sorted(record.getMessage() for record in caplog.records)
    assert len(logged) == 2
    assert "fault_injection.faults.reward failed on prompt 'q1' (error)" in logged[0]
    assert "counted in reward/outcome_error: Traceback" in logged[0]
    assert "in raises\n" in logged[0]
    assert logged[0].endswith("KeyError: 'gold'")
    assert logged[1].endswith("the score must be a number in [0, 1], got float 1.5")


@pytest.mark.filterwarnings("ignore")
def test_a_run_ends_when_too_large_a_share_of_the_last_answers_failed(caplog):
    verifier = RewardFunction("fault_injection.faults.reward", max_failed_fraction=0.1)
    verifier([group("7", *["7"] * 36, *["raises"] * 4)])  # just 10 %
    verifier([group("7", *["raises"] * 3, finish=Finish.LENGTH)])  # not graded
    with pytest.raises(ConfigError) as error:
        verifier([group("7", "returns nan", uid="q2")])
    verifier.close()
    text = str(error.value)
    assert text.startswith(
        "verifier.init_args.max_failed_fraction: fault_injection.faults.reward failed on 12.2% of the last 41"
        " answers (4 error, 1 invalid); at most 10.0% may fail. The first failure, on prompt 'p'"
        " (error): "
    )
    assert "KeyError: 'gold'" in text
    assert text.endswith("Fix it or raise the limit, then resume (a run with ckpt_path=last)")


ORPHANING = """
import sys, threading, time
from ceeh.data.verify import RewardFunction
from ceeh.data.verify.math_answer import MATH_GRADER
from ceeh.data.verify.pool import WorkerPool
from tests.data.verify.scoring import group
reward = RewardFunction("fault_injection.faults.reward", workers=1, timeout_seconds=600)
idle = RewardFunction("fault_injection.faults.reward", workers=1)
idle([group("7", "7")])
mathematics = WorkerPool(
    grader=MATH_GRADER, arguments={"sys_path": sys.path}, size=1, timeout_seconds=600, memory_mib=512
)
mathematics.grade([("x", "x")])
send = reward.pool._send
def telling(worker, queue):
    send(worker, queue)
    print(*(p.workers[0].process.pid for p in (reward.pool, idle.pool, mathematics)), flush=True)
reward.pool._send = telling
reward([group("7", "sleeps")])
"""


def test_workers_end_with_a_trainer_that_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANING], stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout is not None
        pids = {int(pid) for pid in trainer.stdout.readline().split()}
        assert len(pids) == 3
        assert processes_of(pids) == pids
        os.kill(trainer.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while processes_of(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_of(pids) == set()
