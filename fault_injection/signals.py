"""python -m fault_injection.signals: SIGTERM, SIGINT and SIGUSR1 in every phase of a run, each sent twice."""

import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from ceeh.run.checkpoint import checkpoint_files
from ceeh.run.folder import RunFolder
from fault_injection.equality import differences, entries
from fault_injection.killing import PHASES, Killer
from fault_injection.leftovers import Leftovers
from fault_injection.process import attempt, run_experiment, uninterrupted

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PROMISED_SECONDS = 5.0
SECOND_AFTER_SECONDS = 0.1


class Sender(Killer):
    """Sends the signal twice, as `timeout` does: the repeat arrives while the run stops."""

    def kill(self, words: str) -> None:
        if not self.note.exists():
            arguments = (os.getpid(), self.number)
            threading.Timer(SECOND_AFTER_SECONDS, os.kill, arguments).start()
        super().kill(words)


def inject(work: Path, *, phases: str = ",".join(PHASES), seed: int = 0) -> dict[str, Any]:
    """Measures the seconds until the process ends, its exit status and what it leaves behind.

    A run is resumed after each stop, as long as phases are left in it; then its folder is compared with that
    of an uninterrupted run.
    """
    dice = random.Random(seed)
    # Absolute: compilers work elsewhere.
    leftovers = Leftovers((work / "temporary").resolve())
    whole = uninterrupted(work, leftovers.enter)
    after_a_whole_run = leftovers.found()
    stops, runs = [], []
    waiting = [(number, phase) for number in NUMBERS for phase in phases.split(",")]
    while waiting:
        output = work / f"run{len(runs):02}"
        note, log = (work / f"{output.name}.{suffix}" for suffix in ("note", "log"))
        begun, unreached, status = len(stops), [], None
        while waiting and not unreached:
            number, phase = waiting.pop(0)
            # Early in the rest of the run, so that it has room for several.
            sender = Sender(dice.randint(1, min(2, PHASES[phase])), dice.random(), note, number)
            leftovers.begin()
            status = attempt(output, log, inject=partial(enter_armed, leftovers, sender, phase))
            if note.is_file():
                stops.append(stop_of(phase, number, note, status, leftovers, output / "starter"))
                stops[-1]["run"] = len(runs)
                print(f"stop {len(stops)}: {stops[-1]}", flush=True)
            else:
                unreached.append((number, phase))
        waiting = unreached + waiting
        if status != 0:
            status = attempt(output, log, inject=leftovers.enter)
        if status != 0 or len(stops) == begun:
            raise RuntimeError(f"run {len(runs)} ended with {status}; see {log}")
        runs.append({"stops": len(stops) - begun, "differences": compared(whole, output)})
    good = [stop for stop in stops if stop["good"] and not runs[stop["run"]]["differences"]]
    slowest: dict[str, float] = {}
    for stop in stops:
        slowest[stop["phase"]] = max(stop["seconds"], slowest.get(stop["phase"], 0.0))
    return {
        "passed": len(good) == len(stops),
        "stops": len(stops),
        "good": len(good),
        "slowest_seconds": slowest,
        "left_by_a_whole_run": after_a_whole_run,
        "all": stops,
        "runs": runs,
        "seed": seed,
    }


def enter_armed(leftovers: Leftovers, sender: Sender, phase: str) -> None:
    leftovers.enter()
    sender.arm(phase)


def stop_of(
    phase: str, number: signal.Signals, note: Path, status: int, leftovers: Leftovers, run: Path
) -> dict[str, Any]:
    """What a stopped process did and left; call it as soon as the process has ended."""
    asked, moment = note.read_text().splitlines()
    seconds, left = round(time.monotonic() - float(asked), 2), leftovers.found()
    finished = RunFolder(run).last_rollout_step() or 0
    saved = max(checkpoint_files(run / "checkpoints"), default=0)
    in_time = seconds < PROMISED_SECONDS
    return {
        "phase": phase,
        "signal": number.name,
        "moment": moment,
        "seconds": seconds,
        "status": status,
        "left": left,
        "finished": finished,
        "saved": saved,
        "good": status == 128 + number and saved == finished and in_time and not left,
    }


def compared(whole: Path, other: Path) -> list[str]:
    """Differences apart from the list of checkpoints: each stop adds one, which replaces an older one."""
    names = [
        {name for name in entries(output / "starter") if not name.startswith("checkpoints/")}
        for output in (whole, other)
    ]
    files = [f"files: {sorted(names[0] ^ names[1])}"] if names[0] != names[1] else []
    return files + differences(whole / "starter", other / "starter", common=True)


if __name__ == "__main__":
    sys.exit(run_experiment(inject))
