"""python -m fault_injection: all experiments in turn, then docs/reliability.md from their results.

`--only report` writes the page from the existing results.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fault_injection.page import ROOT, write_page

RESULTS = ROOT / "fault_injection" / "results"
EXPERIMENTS = ("kills", "signals", "engine", "full_disk", "user_code", "tracking", "soak")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fault_injection", description=__doc__)
    parser.add_argument("--only", help=f"some of {', '.join(EXPERIMENTS)}, report; with commas")
    given = parser.parse_args(arguments)
    chosen = given.only.split(",") if given.only else [*EXPERIMENTS, "report"]
    if unknown := set(chosen) - {*EXPERIMENTS, "report"}:
        parser.error(f"no experiment '{min(unknown)}'; there are {', '.join(EXPERIMENTS)}, report")
    RESULTS.mkdir(exist_ok=True)
    failed = []
    for name in EXPERIMENTS:
        if name not in chosen:
            continue
        print(f"{name} ...", flush=True)
        output = str(RESULTS / f"{name}.json")
        command = [sys.executable, "-m", f"fault_injection.{name}", "--output", output]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            failed.append(name)
    page: Path = write_page(RESULTS)
    print(f"{page} written" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
