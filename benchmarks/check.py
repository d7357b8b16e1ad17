"""python -m benchmarks.check: which measurements fell below baseline.json."""

import json
import sys
from pathlib import Path

from benchmarks.harness import RESULTS

BASELINE = Path(__file__).parent / "baseline.json"


def worse(kept: dict[str, dict[str, dict[str, float]]], results: Path) -> list[str]:
    """A line for each measurement that is missing or beyond its bound.

    `kept` maps benchmark -> measurement -> {"at_least": x} or {"at_most": x}.
    """
    lines = []
    for benchmark, measurements in kept.items():
        file = results / f"{benchmark}.json"
        if not file.is_file():
            lines.append(f"{benchmark}: not measured; run make bench")
            continue
        measured = {
            measurement["name"]: measurement["value"]
            for measurement in json.loads(file.read_text())["measurements"]
        }
        for name, bound in measurements.items():
            if name not in measured:
                lines.append(f"{benchmark}: '{name}' was not measured; run make bench")
                continue
            value = measured[name]
            if value < bound.get("at_least", value) or value > bound.get("at_most", value):
                words = ", ".join(
                    f"{kind.replace('_', ' ')} {limit:g}" for kind, limit in bound.items()
                )
                lines.append(f"{benchmark}: {name} is {value:.4g}, to keep is {words}")
    return lines


def main() -> int:
    kept = json.loads(BASELINE.read_text())
    lines = worse(kept, RESULTS)
    for line in lines:
        print(line)
    if not lines:
        print(f"all {sum(map(len, kept.values()))} measurements kept")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
