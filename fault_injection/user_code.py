"""python -m fault_injection.user_code --output FILE.json: what faulty reward functions cost.

Each fault of `fault_injection.faults` between correct answers, alone and all in one call; workers killed
from outside at random times; how many correct answers were lost, how long it took, and which processes
are left. Then the speed of a trivial function.
"""

import argparse
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from ceeh.data.verify.base import CORRECT, INCORRECT
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.errors import ConfigError
from ceeh.runtime.versions import provenance
from ceeh.types import Completion, Finish, Prompt, RolloutGroup, ScoredGroup
from fault_injection.faults import FAULTS

ANSWERS = ("It is 7.", "It is 8.")


def group(number: int, responses: tuple[str, ...]) -> RolloutGroup:
    prompt = Prompt(uid=f"q{number}", text="3 + 4 = ?", answer="7", token_ids=tuple(range(100)))
    completions = tuple(
        Completion(text=text, token_ids=(1,), logprobs=(0.0,), finish=Finish.STOP)
        for text in responses
    )
    return RolloutGroup(prompt=prompt, completions=completions, policy_version=0)


def processes_of(leaders: set[int]) -> set[int]:
    """Live processes in the sessions that `leaders` opened."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) in leaders and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


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


def lost(scored: list[ScoredGroup]) -> int:
    """Answers around the fault that did not get their score."""
    expected = ((0, CORRECT), (2, INCORRECT))
    return sum(group.verdicts[n] != verdict for group in scored for n, verdict in expected)


def one_by_one(verifier: Watched) -> dict[str, dict[str, object]]:
    results = {}
    for name, (expected, _) in FAULTS.items():
        begin = time.perf_counter()
        scored = verifier([group(0, (ANSWERS[0], name, ANSWERS[1]))])
        results[name] = {
            "outcome": scored[0].verdicts[1].outcome.value,
            "expected": expected,
            "answers_lost": lost(scored),
            "seconds": round(time.perf_counter() - begin, 2),
        }
    return results


def all_in_one(verifier: Watched, copies: int) -> dict[str, object]:
    names = list(FAULTS) * copies
    begin = time.perf_counter()
    scored = verifier([group(n, (ANSWERS[0], name, ANSWERS[1])) for n, name in enumerate(names)])
    outcomes = [scores.verdicts[1].outcome.value for scores in scored]
    expected = [FAULTS[name][0] for name in names]
    return {
        "answers": 3 * len(names),
        "faults": len(names),
        "outcomes": dict(Counter(outcomes)),
        "faults_of_another_outcome": sum(map(str.__ne__, outcomes, expected)),
        "answers_lost": lost(scored),
        "seconds": round(time.perf_counter() - begin, 2),
    }


def killed_from_outside(kills: int, answers: int) -> dict[str, object]:
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
    scored = verifier([group(n, ANSWERS * 50) for n in range(answers // 100)])
    seconds = round(time.perf_counter() - begin, 2)
    ended.set()
    thread.join()
    verifier.close()
    counts = Counter(verdict.outcome.value for scores in scored for verdict in scores.verdicts)
    return {"killed": killed, "outcomes": dict(counts), "seconds": seconds}


def answers_per_second(verifier: RewardFunction, answers: int) -> int:
    verifier([group(0, ANSWERS)])
    groups = [
        group(n, tuple(f"{k} {'word ' * 200}" for k in range(12))) for n in range(answers // 12)
    ]
    begin = time.perf_counter()
    verifier(groups)
    return round(12 * len(groups) / (time.perf_counter() - begin))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", required=True, metavar="FILE.json")
    parser.add_argument("--timeout-seconds", type=float, default=1)
    parser.add_argument("--memory-mib", type=int, default=1024)
    given = parser.parse_args()
    limits = {"timeout_seconds": given.timeout_seconds, "memory_mib": given.memory_mib}
    result: dict[str, object] = {"limits": limits, "faults": len(FAULTS), "versions": provenance()}
    verifier = Watched(**limits, stall_seconds=600)
    result["one_by_one"] = one_by_one(verifier)
    result["all_in_one_call"] = all_in_one(verifier, copies=3)
    begin = time.perf_counter()
    verifier.close()
    result["close_seconds"] = round(time.perf_counter() - begin, 3)
    result["workers_opened"] = len(verifier.opened)
    result["processes_left_over"] = len(processes_of(verifier.opened))
    result["killed_from_outside"] = killed_from_outside(kills=20, answers=100_000)
    for workers in (1, 2):
        trivial = RewardFunction("fault_injection.faults.reward", workers=workers)
        result[f"trivial_answers_per_second_{workers}_workers"] = answers_per_second(
            trivial, 24_000
        )
        trivial.close()
    failing = RewardFunction("fault_injection.faults.reward")
    begin = time.perf_counter()
    try:
        failing([group(n, ("sleeps",) * 12) for n in range(32)])
    except ConfigError as error:
        result["a_function_that_always_hangs"] = {
            "seconds": round(time.perf_counter() - begin, 1),
            "error": str(error),
        }
    failing.close()
    Path(given.output).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
