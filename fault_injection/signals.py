"""python -m fault_injection.signals: SIGTERM, SIGINT and SIGUSR1 in every phase of a run, each sent twice.

Measures the seconds until the process ends, its exit status and what it leaves behind; then the same command
resumes, and its folder is compared with that of an uninterrupted run.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ceeh.run.checkpoint import checkpoint_files
from ceeh.runtime.versions import provenance
from fault_injection.equality import differences, file_names
from fault_injection.killing import PHASES, Killer, arm
from fault_injection.leftovers import Leftovers
from fault_injection.process import attempt, command_line, prepare, uninterrupted, write_results

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PROMISED_SECONDS = 5.0
SECOND_AFTER_SECONDS = 0.1


class Asker(Killer):
    """Sends the signal twice, as `timeout` does: the repeat arrives while the run stops."""

    def kill(self, words: str) -> None:
        if not self.note.exists():
            arguments = (os.getpid(), self.number)
            threading.Timer(SECOND_AFTER_SECONDS, os.kill, arguments).start()
        super().kill(words)


def drill(phases: Sequence[str], seed: int, work: Path) -> dict[str, Any]:
    """Each signal in each phase; a run is resumed after each stop, as long as phases are left in it."""
    begin, dice = time.monotonic(), random.Random(seed)
    # Absolute: compilers work elsewhere.
    leftovers = Leftovers((work / "temporary").resolve())
    whole = uninterrupted(work, leftovers.enter)
    after_a_whole_run = leftovers.found()
    stops, runs = [], []
    waiting = [(number, phase) for number in NUMBERS for phase in phases]
    while waiting:
        output = work / f"run{len(runs):02}"
        log = output.with_name(f"{output.name}.log")
        here, put_off = 0, []
        while waiting:
            number, phase = waiting.pop(0)
            note = output.with_name(f"{output.name}.note")
            note.unlink(missing_ok=True)
            # Early in the rest of the run, so that it has room for several.
            asker = Asker(dice.randint(1, min(2, PHASES[phase])), dice.random(), note, number)
            leftovers.begin()
            status = attempt(output, log, inject=partial(inject, leftovers, phase, asker))
            ended = time.monotonic()
            if not note.is_file():  # the rest of the run does not reach that phase
                put_off.append((number, phase))
                break
            asked, moment = note.read_text().splitlines()
            stops.append(
                {
                    "phase": phase,
                    "signal": signal.Signals(number).name,
                    "moment": moment,
                    "seconds": round(ended - float(asked), 2),
                    "status": status,
                    "left": leftovers.found(),
                    "finished": finished_step(output / "starter"),
                    "saved": max(checkpoint_files(output / "starter" / "checkpoints"), default=0),
                    "run": len(runs),
                }
            )
            here += 1
            print(f"stop {len(stops)}: {stops[-1]}", flush=True)
        waiting = put_off + waiting
        if status != 0:
            status = attempt(output, log, inject=leftovers.enter)
        if status != 0 or not here:
            raise RuntimeError(f"run {len(runs)} ended with {status}; see {log}")
        runs.append({"stops": here, "differences": compared(whole, output)})
        print(f"run {len(runs) - 1}: {runs[-1]}", flush=True)
    good = [stop for stop in stops if is_good(stop) and not runs[stop["run"]]["differences"]]
    slowest = {
        phase: max(stop["seconds"] for stop in stops if stop["phase"] == phase) for phase in phases
    }
    return {
        "stops": len(stops),
        "good": len(good),
        "slowest_seconds": slowest,
        "left_by_a_whole_run": after_a_whole_run,
        "all": stops,
        "runs": runs,
        "seconds": round(time.monotonic() - begin),
        "seed": seed,
        "versions": provenance(),
    }


def inject(leftovers: Leftovers, phase: str, asker: Asker) -> None:
    leftovers.enter()
    arm(phase, asker)


def is_good(stop: dict[str, Any]) -> bool:
    expected = 128 + signal.Signals[stop["signal"]].value
    saved = stop["saved"] == stop["finished"]
    in_time = stop["seconds"] < PROMISED_SECONDS
    return stop["status"] == expected and saved and in_time and not stop["left"]


def finished_step(run: Path) -> int:
    """The last rollout step in `metrics.jsonl`."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return json.loads(lines[-1])["rollout_step"] if lines else 0


def compared(whole: Path, other: Path) -> list[str]:
    """Differences apart from the list of checkpoints: each stop adds one, which replaces an older one."""
    names = [
        {name for name in file_names(output / "starter") if not name.startswith("checkpoints/")}
        for output in (whole, other)
    ]
    files = [f"files: {sorted(names[0] ^ names[1])}"] if names[0] != names[1] else []
    return files + differences(whole / "starter", other / "starter", common=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line("fault_injection.signals", __doc__ or "")
    parser.add_argument("--phases", default=",".join(PHASES), help="some of them, with commas")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    phases = given.phases.split(",")
    if unknown := set(phases) - PHASES.keys():
        parser.error(f"no phase '{min(unknown)}'; there are {', '.join(PHASES)}")
    prepare(given.work)
    results = drill(phases, given.seed, given.work)
    write_results(results, given.output)
    print(
        f"{results['good']} of {results['stops']} stops good in {results['seconds']} s; the slowest by "
        f"phase, seconds: {results['slowest_seconds']}"
    )
    return 0 if results["good"] == results["stops"] else 1


if __name__ == "__main__":
    sys.exit(main())
