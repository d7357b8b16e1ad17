"""python -m benchmarks.check: which measurements fell below baseline.json."""

import json
import sys

from benchmarks import harness


def worse() -> list[str]:
    """A line for each measurement of the baseline that is missing or beyond its bound."""
    lines = []
    for benchmark, bounds in harness.BASELINE.items():
        file = harness.RESULTS / f"{benchmark}.json"
        measurements = json.loads(file.read_text())["measurements"] if file.is_file() else []
        measured = {each["name"]: each["value"] for each in measurements}
        for name, bound in bounds.items():
            if name not in measured:
                lines.append(f"{benchmark}: '{name}' was not measured; run make bench")
            elif not harness.keeps(bound, measured[name]):
                value, limit = measured[name], harness.words(bound)
                lines.append(f"{benchmark}: {name} is {value:.4g}, the baseline {limit}")
    return lines


def main() -> int:
    lines = worse()
    print("\n".join(lines) or "every measurement keeps its baseline")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
