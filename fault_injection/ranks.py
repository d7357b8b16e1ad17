"""python -m fault_injection.ranks: one killed process of a sharded run ends all, and the run resumes."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fault_injection.equality import differences
from fault_injection.killing import PHASES
from fault_injection.leftovers import Leftovers
from fault_injection.page import ROOT
from fault_injection.process import CONFIG, RUN, run_experiment

RANKS = 2
LAUNCH = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}")
SHARDED = ("hardware.strategy=fsdp", "hardware.threads=1")
OF_RANK_ZERO = {"model", "metrics"}
"""Phases that the other ranks do not have, or have without doing anything."""
PROMISED_SECONDS = 60.0
"""After which no process of the run may be left; torchrun itself waits 30 s before it kills."""


def inject(work: Path, *, kills: int = 10, per_run: int = 5, seed: int = 0) -> dict[str, Any]:
    """Sends `kills` SIGKILLs to one rank at a time, at most `per_run` to a run, in the phases in turn.

    Measures the seconds until all of the run's processes have ended. The same command is repeated until the
    run is finished, and its folder is compared with that of an uninterrupted one.
    """
    dice, hits, runs = random.Random(seed), [], []
    leftovers = Leftovers((work / "temporary").resolve())
    phases: list[str] = []
    if (status := attempt(work / "whole", ["-m", "ceeh.fit"])) != 0:
        raise RuntimeError(f"the uninterrupted run ended with {status}; see {work / 'whole.log'}")
    while len(hits) < kills:
        output, here, killed, status = work / f"run{len(runs):02}", 0, 0, None
        note = work / f"{output.name}.note"
        while status != 0:
            phases = phases or dice.sample(list(PHASES), len(PHASES))
            leftovers.begin()
            if here == per_run or len(hits) == kills:
                status = attempt(output, ["-m", "ceeh.fit"])
            else:
                note.unlink(missing_ok=True)
                phase, call = phases[-1], str(dice.randint(1, PHASES[phases[-1]]))
                killed = 0 if phase in OF_RANK_ZERO else dice.randrange(RANKS)
                program = ["-m", "fault_injection.rank", str(note), phase, call]
                status = attempt(output, [*program, str(dice.random()), str(killed)])
            if note.is_file():
                begin, moment = note.read_text().splitlines()
                note.unlink()
                seconds, left = round(time.monotonic() - float(begin), 1), leftovers.found()
                hits.append({"run": len(runs), "phase": phases.pop(), "moment": moment})
                hits[-1] |= {"rank": killed, "seconds": seconds, "processes_left": processes(left)}
                here += 1
                print(f"kill {len(hits)}/{kills}: {hits[-1]}", flush=True)
            elif status != 0:
                raise RuntimeError(f"run {len(runs)} ended with {status}; see {output}.log")
        found = differences(work / "whole" / "starter", output / "starter")
        runs.append({"kills": here, "differences": found})
    ended = [hit["seconds"] < PROMISED_SECONDS and not hit["processes_left"] for hit in hits]
    survived = sum(
        end and not runs[hit["run"]]["differences"] for hit, end in zip(hits, ended, strict=True)
    )
    return {
        "passed": survived == kills,
        "kills": kills,
        "survived": survived,
        "phases": dict(Counter(hit["phase"] for hit in hits)),
        "runs": runs,
        "hits": hits,
        "seed": seed,
    }


def attempt(output: Path, program: Sequence[str]) -> int:
    """Runs the command on all ranks once; returns the exit status of torchrun."""
    arguments = ["--config", str(CONFIG), *RUN, *SHARDED, f"output={output}"]
    with output.with_suffix(".log").open("a") as log:
        return subprocess.run(
            [sys.executable, *LAUNCH, *program, *arguments],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        ).returncode


def processes(left: Sequence[str]) -> list[str]:
    """Of what is left. A process that is killed leaves its temporary files and shared memory."""
    return [words for words in left if words.startswith("process ")]


if __name__ == "__main__":
    sys.exit(run_experiment(inject))
