"""python -m fault_injection.user_code: what faulty reward functions cost."""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from ceeh.data.verify.base import CORRECT, INCORRECT
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.errors import ConfigError
from ceeh.types import Completion, Finish, GradingOutcome, Prompt, RolloutGroup
from fault_injection.faults import FAULTS
from fault_injection.process import run_experiment

ANSWERS = ("It is 7.", "It is 8.")


def inject(
    work: Path,
    *,
    timeout_seconds: float = 1.0,
    memory_mib: int = 1024,
    kills: int = 20,
    answers: int = 100_000,
) -> dict[str, Any]:
    """Each fault of `fault_injection.faults` between correct answers, alone and all in one call; workers
    killed from outside; a function that always hangs; which processes are left.
    """
    limits = {"timeout_seconds": timeout_seconds, "memory_mib": memory_mib}
    with closing(Watched(**limits, stall_seconds=600)) as verifier:
        alone = {name: scored(verifier, [name]) for name in FAULTS}
        together = scored(verifier, list(FAULTS) * 3)
    lost = together["lost"] + sum(each["lost"] for each in alone.values())
    miscounted = together["miscounted"] + sum(each["miscounted"] for each in alone.values())
    left = processes_of(verifier.opened)
    outside = killed_from_outside(kills, answers)
    return {
        # A killed worker costs the answer that it was at.
        "passed": not lost and not miscounted and not left and outside["died"] <= kills,
        "limits": limits,
        "faults": len(FAULTS),
        "alone": alone,
        "together": together,
        "lost": lost,
        "miscounted": miscounted,
        "workers_opened": len(verifier.opened),
        "processes_left": len(left),
        "killed_from_outside": outside,
        "always_hanging_seconds": always_hanging(timeout_seconds),
    }


class Watched(RewardFunction):
    """Records the sessions that its workers opened."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("fault_injection.faults.reward", max_failed_fraction=1.0, **settings)
        self.opened: set[int] = set()
        start = self.pool._start

        def recording(**given: bool) -> None:
            start(**given)
            self.opened.add(self.pool.workers[-1].process.pid)

        self.pool._start = recording


def processes_of(leaders: set[int]) -> set[int]:
    """Live processes in the sessions that `leaders` opened."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended meanwhile
            if os.getsid(process.pid) in leaders and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def group(number: int, responses: tuple[str, ...]) -> RolloutGroup:
    prompt = Prompt(uid=f"q{number}", text="3 + 4 = ?", answer="7", token_ids=tuple(range(100)))
    completions = tuple(
        Completion(text=text, token_ids=(1,), logprobs=(0.0,), finish=Finish.STOP)
        for text in responses
    )
    return RolloutGroup(prompt=prompt, completions=completions, policy_version=0)


def scored(verifier: Watched, names: list[str]) -> dict[str, Any]:
    """Each of the faults `names` between two answers: how many answers were lost, faults miscounted."""
    begin = time.perf_counter()
    groups = verifier([group(n, (ANSWERS[0], name, ANSWERS[1])) for n, name in enumerate(names)])
    verdicts = [each.verdicts for each in groups]
    outcomes = [fault.outcome.value for _, fault, _ in verdicts]
    return {
        "outcomes": dict(Counter(outcomes)),
        "miscounted": sum(
            FAULTS[name][0] != got for name, got in zip(names, outcomes, strict=True)
        ),
        "lost": sum((first != CORRECT) + (last != INCORRECT) for first, _, last in verdicts),
        "seconds": round(time.perf_counter() - begin, 2),
    }


def killed_from_outside(kills: int, answers: int) -> dict[str, Any]:
    """Workers killed at random times, as by the kernel when memory runs out, while answers are quick."""
    verifier = Watched()
    rng, ended, killed = random.Random(0), threading.Event(), 0

    def kill() -> None:
        nonlocal killed
        while killed < kills and not ended.wait(rng.uniform(0.05, 0.15)):
            if workers := [w for w in verifier.pool.workers.copy() if w.started]:
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(workers).process.pid, signal.SIGKILL)
                    killed += 1

    thread = threading.Thread(target=kill)
    thread.start()
    begin = time.perf_counter()
    with closing(verifier):
        groups = verifier([group(n, ANSWERS * 50) for n in range(answers // 100)])
    seconds = round(time.perf_counter() - begin, 2)
    ended.set()
    thread.join()
    outcomes = Counter(verdict.outcome for each in groups for verdict in each.verdicts)
    counts = {"answers": outcomes.total(), "died": outcomes.total() - outcomes[GradingOutcome.OK]}
    return {"killed": killed, "seconds": seconds} | counts


def always_hanging(timeout_seconds: float) -> float:
    """Seconds after which a function that always hangs ends the run, by ConfigError."""
    begin = time.perf_counter()
    limits = {"timeout_seconds": timeout_seconds, "stall_seconds": 10}
    function = RewardFunction("fault_injection.faults.reward", **limits)
    with closing(function), suppress(ConfigError):
        function([group(n, ("sleeps",) * 12) for n in range(32)])
        raise RuntimeError("a function that always hangs did not end the run")
    return round(time.perf_counter() - begin, 1)


if __name__ == "__main__":
    sys.exit(run_experiment(inject))
