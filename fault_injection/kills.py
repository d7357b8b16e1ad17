"""python -m fault_injection.kills --kills N: a killed run resumes to the numbers of an uninterrupted one.

Each kill is a SIGKILL in one of the phases, in turn; the same command is repeated until the run is finished,
and its folder is compared with that of an uninterrupted run.
"""

import random
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
from fault_injection.process import attempt, command_line, prepare, uninterrupted, write_results


def drill(kills: int, per_run: int, seed: int, work: Path) -> dict[str, Any]:
    """Kills `kills` times, at most `per_run` times per run; returns the hits and the differences."""
    begin, dice, hits, runs = time.monotonic(), random.Random(seed), [], []
    phases: list[str] = []
    whole = uninterrupted(work)
    while len(hits) < kills:
        output, here = work / f"run{len(runs):02}", 0
        while True:
            # A deck of all phases, so that each gets its share. A phase that the rest of a run does not reach
            # stays on the deck, and the run ends.
            phases = phases or dice.sample(list(PHASES), len(PHASES))
            phase = phases[-1] if here < per_run and len(hits) < kills else None
            note = output.with_name(f"{output.name}.note")
            note.unlink(missing_ok=True)
            log = output.with_name(f"{output.name}.log")
            if phase is None:
                status = attempt(output, log)
            else:
                killer = Killer(dice.randint(1, PHASES[phase]), dice.random(), note)
                status = attempt(output, log, inject=partial(arm, phase, killer))
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
        found = differences(whole / "starter", output / "starter")
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
    parser = command_line("fault_injection.kills", __doc__ or "")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--per-run", type=int, default=5, help="kills of one run before it may end")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if min(given.kills, given.per_run) < 1:
        parser.error("--kills and --per-run must be at least 1")
    prepare(given.work)
    results = drill(given.kills, given.per_run, given.seed, given.work)
    write_results(results, given.output)
    print(
        f"{results['survived']} of {results['kills']} kills survived in {results['seconds']} s; "
        f"by phase: {results['phases']}"
    )
    for run in results["runs"]:
        for words in run["differences"][:20]:
            print(f"  {words}")
    return 0 if results["survived"] == results["kills"] else 1


if __name__ == "__main__":
    sys.exit(main())
