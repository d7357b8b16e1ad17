"""python benchmarks/verifier.py: the speed of grading, and what hostile answers cost, as a table."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).parent.parent))

from ceeh.data.verify.math_answer import MathAnswer
from ceeh.data.verify.pool import START_SECONDS, WALL_FACTOR
from ceeh.types import Completion, Finish, Prompt, RolloutGroup, Verdict
from tests.data.verify.hostile import HONEST, HOSTILE, REFERENCE, response

PAIRS = [
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}"),
    ("x^2+1", "1+x^2"),
    ("(x-1)(x-2)", "x^2-3x+2"),
    (r"2\pi", r"2 \cdot \pi"),
    (r"\frac{x+1}{x-1}", r"1+\frac{2}{x-1}"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)"),
    (r"1 \pm \sqrt{2}", r"1-\sqrt2, 1+\sqrt2"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&5\end{bmatrix}"),
]


def group(reference: str, boxes: Sequence[str]) -> RolloutGroup:
    return RolloutGroup(
        prompt=Prompt(uid=reference, text="?", answer=reference, token_ids=(1,)),
        completions=tuple(
            Completion(text=response(box), token_ids=(1,), logprobs=(0.0,), finish=Finish.STOP)
            for box in boxes
        ),
        policy_version=0,
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def integer_groups(answers: int) -> list[RolloutGroup]:
    """Groups of ten distinct integers each, one of them correct."""
    return [
        group(str(10 * n + 3), [str(10 * n + k) for k in range(10)]) for n in range(answers // 10)
    ]


def distinct_pairs(count: int) -> list[tuple[str, str]]:
    """`PAIRS` repeatedly, with a different constant each time, so that no cache helps."""
    pairs = []
    for n in range(count):
        one, other = PAIRS[n % len(PAIRS)]
        pairs.append((one.replace("1", str(n + 2)), other.replace("1", str(n + 2))))
    return pairs


@contextmanager
def peak_memory(verifier: MathAnswer) -> Iterator[list[float]]:
    """The largest resident set of any worker in MiB (the kernel's VmHWM)."""
    peaks, ended = [0.0], Event()

    def watch() -> None:
        while not ended.wait(0.005):
            for worker in list(verifier.pool.workers):
                try:
                    status = Path(f"/proc/{worker.process.pid}/status").read_text()
                except OSError:
                    continue
                for line in status.splitlines():
                    if line.startswith("VmHWM"):
                        peaks[0] = max(peaks[0], int(line.split()[1]) / 1024)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def grade(verifier: MathAnswer, groups: list[RolloutGroup]) -> tuple[list[Verdict], float]:
    """The verdicts on all answers, and the seconds that they took."""
    begin = time.perf_counter()
    verdicts = [verdict for scored in verifier(groups) for verdict in scored.verdicts]
    return verdicts, time.perf_counter() - begin


def counted(verdicts: Iterable[Verdict]) -> str:
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    return ", ".join(f"{outcome} {n}" for outcome, n in outcomes.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--integers", type=int, default=20_000, help="integer answers")
    parser.add_argument("--pairs", type=int, default=400, help="pairs of expressions, one worker")
    parser.add_argument("--workers", type=int, default=2, help="workers for the hostile set")
    parser.add_argument("--timeout-seconds", type=float, default=5)
    parser.add_argument("--memory-mib", type=int, default=1024)
    parser.add_argument("--stall-seconds", type=float, default=30)
    given = parser.parse_args()

    def show(label: str, value: object) -> None:
        print(f"{label:<58}{value}", flush=True)

    verifier = MathAnswer(
        timeout_seconds=given.timeout_seconds,
        workers=given.workers,
        memory_mib=given.memory_mib,
        stall_seconds=given.stall_seconds,
    )
    spent = time.process_time()
    _, taken = grade(verifier, integer_groups(given.integers))
    spent = time.process_time() - spent
    show("integer answers per second, no worker", f"{given.integers / taken:,.0f}")
    show("the same per second of CPU time", f"{given.integers / spent:,.0f}")

    single = MathAnswer(timeout_seconds=given.timeout_seconds, workers=1)
    single([group("x", ["y"])])
    pairs = [group(one, [other]) for one, other in distinct_pairs(given.pairs)]
    (worker,) = single.pool.workers
    begin, before = time.perf_counter(), cpu_seconds(worker.process.pid)
    single(pairs)
    taken, spent = time.perf_counter() - begin, cpu_seconds(worker.process.pid) - before
    single.close()
    show("mathematical pairs per second, one worker", f"{len(pairs) / taken:,.0f}")
    show("the same per second of its CPU time", f"{len(pairs) / spent:,.0f}")

    hostile: list[Verdict] = []
    took: dict[str, float] = {}
    lost = 0
    with peak_memory(verifier) as peaks:
        for name, text in HOSTILE.items():
            (verdict,), took[name] = grade(verifier, [group(REFERENCE, [text])])
            hostile.append(verdict)
            (honest,), _ = grade(verifier, [group(REFERENCE, [HONEST])])
            lost += honest.score < 1
        mixed = [*integer_groups(2000), group(REFERENCE, list(HOSTILE.values()))]
        verdicts, taken = grade(verifier, mixed)
    verifier.close()
    limit = WALL_FACTOR * given.timeout_seconds + START_SECONDS
    slowest = max(took, key=took.__getitem__)
    show("hostile answers", len(hostile))
    show("their outcomes, one by one", counted(hostile))
    show("rewarded", sum(verdict.score > 0 for verdict in hostile))
    show(f"hangs, above {limit:.0f} s", sum(seconds > limit for seconds in took.values()))
    show("correct answers lost right after one", lost)
    show("slowest, seconds", f"{took[slowest]:.1f} ({slowest})")
    show(f"peak memory of a worker, MiB of {given.memory_mib}", f"{peaks[0]:.0f}")
    show("one call with 2,000 integers and all of them, seconds", f"{taken:.1f}")
    show("its outcomes", counted(verdicts))
    show("its correct answers, of 200", f"{sum(verdict.score for verdict in verdicts):.0f}")


if __name__ == "__main__":
    main()
