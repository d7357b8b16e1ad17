"""python -m ceeh.compare [LABEL=]FOLDER [LABEL=]FOLDER ...: evaluations side by side, paired by question."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ceeh.errors import ConfigError
from ceeh.evaluation.comparison import AVERAGE, compare, points
from ceeh.evaluation.results import Results, read_results
from ceeh.reporting.evaluation_page import comparison_grids, write_page
from ceeh.run.atomic import check_folder
from ceeh.runtime.cli import complain
from ceeh.runtime.distributed import say


def labeled(places: Sequence[str]) -> dict[str, Results]:
    """Results by label, LABEL=FOLDER, or by the name that the evaluation had.

    Raises ConfigError for fewer than two, and for a label that occurs twice.
    """
    if len(places) < 2:
        raise ConfigError("give at least two results; the first is the one to compare against")
    found: dict[str, Results] = {}
    for place in places:
        label, equals, folder = ("", "", place) if Path(place).exists() else place.partition("=")
        results = read_results(folder if equals else place)
        name = label if equals else results.name
        if name in found:
            raise ConfigError(
                f"two results are called '{name}'; label them, e.g. base={found[name].folder} "
                f"tuned={results.folder}"
            )
        found[name] = results
    return found


def verdict(comparison: Mapping, label: str) -> str:
    """In words, whether `label` stays within the margin of the base on average."""
    base, margin = comparison["base"], points(comparison["margin"])
    accuracy = comparison[AVERAGE]["changes"][label]["accuracy"]
    value, low, high = (f"{100 * accuracy[part]:+.1f}" for part in ("value", "low", "high"))
    interval = f"{value} [{low}, {high}] points"
    return {
        "yes": f"{label} is within {margin} of {base} or above: {interval}",
        "no": f"{label} is more than {margin} below {base}: {interval}",
        "undecided": f"{label} may or may not be within {margin} of {base}: {interval}; more questions or "
        "samples would tell",
    }[comparison[AVERAGE]["changes"][label]["within_margin"]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ceeh.compare", description="Evaluations side by side, paired by question."
    )
    parser.add_argument(
        "results",
        nargs="+",
        metavar="[LABEL=]FOLDER",
        help="what python -m ceeh.evaluate wrote, or an evaluated run folder; the first is the base",
    )
    parser.add_argument(
        "--output", default="comparison", metavar="FOLDER", help="default: comparison"
    )
    parser.add_argument(
        "--margin", type=float, default=1.0, help="points of accuracy that may be lost; default 1"
    )
    parser.add_argument("--draws", type=int, default=2000, help="of the bootstrap; default 2000")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap; default 0")
    given = parser.parse_args(arguments)
    try:
        if not 0 <= given.margin <= 100:
            raise ConfigError(f"--margin must be between 0 and 100 points, got {given.margin}")
        if given.draws < 100:
            raise ConfigError(f"--draws must be at least 100, got {given.draws}")
        results = labeled(given.results)
        comparison = compare(results, draws=given.draws, seed=given.seed, margin=given.margin)
        folder = Path(given.output)
        check_folder(folder, "--output:")
    except ConfigError as error:
        complain(error)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(comparison, indent=2) + "\n")
    title = " against ".join([", ".join(list(results)[1:]), comparison["base"]])
    report = write_page(folder, results, title=title, comparison=comparison)
    say("\n\n".join(grid.text() for grid in comparison_grids(comparison)))
    for note in comparison["notes"]:
        say(f"note: {note}")
    say("")
    for label in list(results)[1:]:
        say(verdict(comparison, label))
    say(f"\n{folder / 'comparison.json'}; report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
