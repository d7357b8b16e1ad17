"""python -m fault_injection: all experiments in turn, then docs/reliability.md from their results."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fault_injection.page import RESULTS, ROOT, write_page

EXPERIMENTS = ("kills", "ranks", "signals", "engine", "full_disk", "user_code", "tracking", "soak")
SHORT = {
    "kills": "--kills 3 --seed 3",
    "user_code": "--kills 3 --answers 6000",
    "tracking": "--steps 15 --step-seconds 0.02",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fault_injection", description=__doc__)
    parser.add_argument("--only", help=f"some of {', '.join(EXPERIMENTS)}; with commas")
    parser.add_argument(
        "--short", action="store_true", help=f"short forms of {', '.join(SHORT)}; writes no page"
    )
    parser.add_argument("--work", type=Path, default=Path("runs", "fault_injection"))
    given = parser.parse_args(arguments)
    possible = tuple(SHORT) if given.short else EXPERIMENTS
    chosen = given.only.split(",") if given.only else possible
    if unknown := set(chosen) - set(possible):
        parser.error(f"no experiment '{min(unknown)}'; there are {', '.join(possible)}")
    failed = []
    for name in chosen:
        print(f"{name} ...", flush=True)
        command = [sys.executable, "-m", f"fault_injection.{name}", "--work", given.work / name]
        command += SHORT[name].split() if given.short else ["--output", RESULTS / f"{name}.json"]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            failed.append(name)
    if not given.short:
        print(f"{write_page()} written")
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
