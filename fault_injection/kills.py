"""python -m fault_injection.kills --kills N: a killed run goes on to the numbers of one that was not.

Each kill is a SIGKILL within a phase that takes its turn; the same command is given again until the
run is over, and its folder is held against that of an uninterrupted run.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ceeh.runtime.versions import provenance
from fault_injection.equality import differences
from fault_injection.killing import PHASES, Killer, arm
from fault_injection.process import attempt, import_everything


def drill(kills: int, per_run: int, seed: int, work: Path) -> dict[str, Any]:
    """Kills `kills` times, at most `per_run` times a run; returns what was hit and what differed."""
    begin, dice, hits, runs = time.monotonic(), random.Random(seed), [], []
    phases: list[str] = []
    status = attempt(work / "whole", work / "whole.log")
    if status != 0:
        raise RuntimeError(f"the uninterrupted run ended with {status}; see {work / 'whole.log'}")
    while len(hits) < kills:
        output, here = work / f"run{len(runs):02}", 0
        while True:
            # A deck of all phases, so that each has its share; a phase that the rest of a run does
            # not come to lets it end, and stays on the deck.
            phases = phases or dice.sample(list(PHASES), len(PHASES))
            phase = phases[-1] if here < per_run and len(hits) < kills else None
            note = output.with_name(f"{output.name}.note")
            note.unlink(missing_ok=True)
            log = output.with_name(f"{output.name}.log")
            if phase is None:
                status = attempt(output, log)
            else:
                killer = Killer(dice.randint(1, PHASES[phase]), dice.random(), note)
                status = attempt(output, log, meddle=partial(arm, phase, killer))
            if status == 0:
                break
            if status != -signal.SIGKILL or not note.is_file():
                raise RuntimeError(f"run {len(runs)} ended with {status}; see {log}")
            hits.append(
                {
                    "run": len(runs),
                    "phase": phases.pop(),
                    "moment": note.read_text().splitlines()[1],
                }
            )
            here += 1
            print(
                f"kill {len(hits)}/{kills}: {hits[-1]['phase']}: {hits[-1]['moment']}", flush=True
            )
        found = differences(work / "whole" / "starter", output / "starter")
        runs.append({"kills": here, "differences": found})
        print(f"run {len(runs) - 1}: {here} kills, {len(found)} differences", flush=True)
    lost = {index for index, run in enumerate(runs) if run["differences"]}
    return {
        "kills": len(hits),
        "survived": sum(hit["run"] not in lost for hit in hits),
        "phases": dict(Counter(hit["phase"] for hit in hits)),
        "runs": runs,
        "hits": hits,
        "seconds": round(time.monotonic() - begin),
        "seed": seed,
        "versions": provenance(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fault_injection.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--per-run", type=int, default=5, help="kills of one run before it may end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/kills"), help="emptied first")
    parser.add_argument("--output", type=Path, help="where to write the figures, JSON")
    given = parser.parse_args(arguments)
    if min(given.kills, given.per_run) < 1:
        parser.error("--kills and --per-run must be at least 1")
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    import_everything()
    figures = drill(given.kills, given.per_run, given.seed, given.work)
    if given.output:
        given.output.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"{figures['survived']} of {figures['kills']} kills survived in {figures['seconds']} s; "
        f"by phase: {figures['phases']}"
    )
    for run in figures["runs"]:
        for words in run["differences"][:20]:
            print(f"  {words}")
    return 0 if figures["survived"] == figures["kills"] else 1


if __name__ == "__main__":
    sys.exit(main())
