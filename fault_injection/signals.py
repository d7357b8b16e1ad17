"""python -m fault_injection.signals: SIGTERM, SIGINT and SIGUSR1 in every phase of a run, each sent twice.

Seconds until the process is gone, its exit status, what it leaves behind; then the same command goes on,
and its folder is held against that of an uninterrupted run.
"""

import argparse
import json
import os
import random
import shutil
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
from fault_injection.process import attempt, import_everything

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PROMISED_SECONDS = 5.0
SECOND_AFTER_SECONDS = 0.1


class Asker(Killer):
    """Asks twice, the second time when the first is being honored."""

    def kill(self, words: str) -> None:
        if not self.note.exists():
            arguments = (os.getpid(), self.number)
            threading.Timer(SECOND_AFTER_SECONDS, os.kill, arguments).start()
        super().kill(words)


def drill(phases: Sequence[str], seed: int, work: Path) -> dict[str, Any]:
    """Each signal in each phase, one run for all phases of a signal; a run is continued after each stop."""
    begin, dice = time.monotonic(), random.Random(seed)
    # Absolute: compilers work elsewhere.
    leftovers = Leftovers((work / "temporary").resolve())
    if (status := attempt(work / "whole", work / "whole.log", meddle=leftovers.enter)) != 0:
        raise RuntimeError(f"the uninterrupted run ended with {status}; see {work / 'whole.log'}")
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
            # Early in what is left of the run, so that one run has room for several.
            asker = Asker(dice.randint(1, min(2, PHASES[phase])), dice.random(), note, number)
            leftovers.begin()
            status = attempt(output, log, meddle=partial(meddle, leftovers, phase, asker))
            ended = time.monotonic()
            if not note.is_file():  # the rest of the run does not come to that phase
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
            status = attempt(output, log, meddle=leftovers.enter)
        if status != 0 or not here:
            raise RuntimeError(f"run {len(runs)} ended with {status}; see {log}")
        runs.append({"stops": here, "differences": compared(work / "whole", output)})
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


def meddle(leftovers: Leftovers, phase: str, asker: Asker) -> None:
    leftovers.enter()
    arm(phase, asker)


def is_good(stop: dict[str, Any]) -> bool:
    expected = 128 + signal.Signals[stop["signal"]].value
    saved = stop["saved"] == stop["finished"]
    in_time = stop["seconds"] < PROMISED_SECONDS
    return stop["status"] == expected and saved and in_time and not stop["left"]


def finished_step(run: Path) -> int:
    """The last rollout step that `metrics.jsonl` has a line of."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return json.loads(lines[-1])["rollout_step"] if lines else 0


def compared(whole: Path, other: Path) -> list[str]:
    """Differences, other checkpoints aside: each stop leaves one more, which drives out an older one."""
    names = [
        {name for name in file_names(output / "starter") if not name.startswith("checkpoints/")}
        for output in (whole, other)
    ]
    files = [f"files: {sorted(names[0] ^ names[1])}"] if names[0] != names[1] else []
    return files + differences(whole / "starter", other / "starter", common=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fault_injection.signals", description=__doc__)
    parser.add_argument("--phases", default=",".join(PHASES), help="some of them, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/signals"), help="emptied first")
    parser.add_argument("--output", type=Path, help="where to write the figures, JSON")
    given = parser.parse_args(arguments)
    phases = given.phases.split(",")
    if unknown := set(phases) - PHASES.keys():
        parser.error(f"no phase '{min(unknown)}'; there are {', '.join(PHASES)}")
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    import_everything()
    figures = drill(phases, given.seed, given.work)
    if given.output:
        given.output.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"{figures['good']} of {figures['stops']} stops good in {figures['seconds']} s; the slowest by "
        f"phase, seconds: {figures['slowest_seconds']}"
    )
    return 0 if figures["good"] == figures["stops"] else 1


if __name__ == "__main__":
    sys.exit(main())
