"""python -m fault_injection.kills: a killed run resumes to the numbers of an uninterrupted one."""

import random
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from fault_injection.equality import differences
from fault_injection.killing import PHASES, Killer
from fault_injection.process import attempt, run_experiment, uninterrupted


def inject(work: Path, *, kills: int = 50, per_run: int = 5, seed: int = 0) -> dict[str, Any]:
    """Sends `kills` SIGKILLs, at most `per_run` to a run, in the phases in turn.

    The same command is repeated until the run is finished, and its folder is compared with that of an
    uninterrupted run.
    """
    dice, hits, runs = random.Random(seed), [], []
    phases: list[str] = []
    whole = uninterrupted(work)
    while len(hits) < kills:
        output, here, status = work / f"run{len(runs):02}", 0, None
        note, log = (work / f"{output.name}.{suffix}" for suffix in ("note", "log"))
        while status != 0:
            # A deck of all phases, so that each gets its share. A phase that the rest of a run does not reach
            # stays on the deck, and the run ends.
            phases = phases or dice.sample(list(PHASES), len(PHASES))
            if here == per_run or len(hits) == kills:
                status = attempt(output, log)
            else:
                killer = Killer(dice.randint(1, PHASES[phases[-1]]), dice.random(), note)
                status = attempt(output, log, inject=partial(killer.arm, phases[-1]))
            if status == -signal.SIGKILL and note.is_file():
                moment = note.read_text().splitlines()[1]
                hits.append({"run": len(runs), "phase": phases.pop(), "moment": moment})
                here += 1
                print(f"kill {len(hits)}/{kills}: {hits[-1]}", flush=True)
            elif status != 0:
                raise RuntimeError(f"run {len(runs)} ended with {status}; see {log}")
        found = differences(whole / "starter", output / "starter")
        runs.append({"kills": here, "differences": found})
    survived = sum(not runs[hit["run"]]["differences"] for hit in hits)
    return {
        "passed": survived == kills,
        "kills": kills,
        "survived": survived,
        "phases": dict(Counter(hit["phase"] for hit in hits)),
        "runs": runs,
        "hits": hits,
        "seed": seed,
    }


if __name__ == "__main__":
    sys.exit(run_experiment(inject))
