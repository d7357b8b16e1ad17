"""python -m ceeh.compare [LABEL=]FOLDER [LABEL=]FOLDER ...: compares evaluations, paired by question."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ceeh.errors import ConfigError
from ceeh.evaluation.comparison import AVERAGE, compare, points
from ceeh.evaluation.held_out import easy_and_hard, held_out_file, read_held_out
from ceeh.evaluation.results import Results, has_results, read_results
from ceeh.reporting.evaluation_page import comparison_grids, write_page
from ceeh.run.atomic import check_folder
from ceeh.runtime.cli import run_command
from ceeh.runtime.distributed import say


def labeled(places: Sequence[str], draws: int) -> dict[str, Results]:
    """Results by label: LABEL of LABEL=FOLDER, else the name of the evaluation.

    Evaluations where all have one; else the held-out samples of the runs, easy and hard by the base of
    the first. Raises ConfigError for fewer than two results and for a label that occurs twice.
    """
    if len(places) < 2:
        raise ConfigError("give at least two results; the first is the baseline")
    split = [("", place) if Path(place).exists() else _label(place) for place in places]
    read = read_results
    if any(held_out_file(place) and not has_results(place) for _, place in split):
        levels = easy_and_hard(split[0][1])
        read = partial(read_held_out, levels=levels, draws=draws)
    found: dict[str, Results] = {}
    for label, place in split:
        results = read(place)
        name = label or results.name
        if name in found:
            raise ConfigError(
                f"two results are called '{name}'; label them, e.g. base={found[name].folder} "
                f"tuned={results.folder}"
            )
        found[name] = results
    return found


def _label(place: str) -> tuple[str, str]:
    label, equals, folder = place.partition("=")
    return (label, folder) if equals else ("", place)


def verdict(comparison: Mapping, label: str) -> str:
    """One sentence: whether `label` stays within the margin of the baseline on average."""
    base, margin = comparison["base"], points(comparison["margin"])
    change = comparison[AVERAGE]["changes"][label]
    value, low, high = (
        f"{100 * change['accuracy'][part]:+.1f}" for part in ("value", "low", "high")
    )
    interval = f"{value} [{low}, {high}] points"
    return {
        "yes": f"{label} is within {margin} of {base} or above: {interval}",
        "no": f"{label} is more than {margin} below {base}: {interval}",
        "undecided": f"{label} may or may not be within {margin} of {base}: {interval}; use more "
        "questions or samples to decide",
    }[change["within_margin"]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ceeh.compare", description="Compare evaluations, paired by question."
    )
    parser.add_argument(
        "results",
        nargs="+",
        metavar="[LABEL=]FOLDER",
        help="folder written by python -m ceeh.evaluate, a run, or RUN/held_out/base.npz; the first is the "
        "baseline",
    )
    parser.add_argument(
        "--output", default="comparison", metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument(
        "--margin", type=float, default=1.0, help="acceptable loss in points; default: %(default)s"
    )
    parser.add_argument(
        "--draws", type=int, default=2000, help="bootstrap draws; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="bootstrap seed; default: %(default)s")
    given = parser.parse_args(arguments)

    def command() -> int:
        if not 0 <= given.margin <= 100:
            raise ConfigError(f"--margin must be between 0 and 100 points, got {given.margin}")
        if given.draws < 100:
            raise ConfigError(f"--draws must be at least 100, got {given.draws}")
        results = labeled(given.results, given.draws)
        comparison = compare(results, draws=given.draws, seed=given.seed, margin=given.margin)
        folder, (base, *others) = Path(given.output), results
        check_folder(folder, "--output:")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.json").write_text(json.dumps(comparison, indent=2) + "\n")
        title = f"{', '.join(others)} against {base}"
        report = write_page(folder, results, title=title, comparison=comparison)
        say("\n\n".join(grid.text() for grid in comparison_grids(comparison)))
        for note in comparison["notes"]:
            say(f"note: {note}")
        say("\n".join(["", *(verdict(comparison, label) for label in others)]))
        say(f"\n{folder / 'comparison.json'}; report: {report}")
        return 0

    return run_command(
        command, if_stopped="run the same command again", last=arguments is None, at_once=True
    )


if __name__ == "__main__":
    sys.exit(main())
