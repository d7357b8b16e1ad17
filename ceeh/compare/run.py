"""A comparison: results by label -> intervals of the differences, a verdict, a report."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ceeh.errors import ConfigError
from ceeh.evaluation.comparison import AVERAGE, compare, points
from ceeh.evaluation.held_out import easy_and_hard, held_out_file, read_held_out
from ceeh.evaluation.results import Results, has_results, read_results
from ceeh.reporting.evaluation_page import comparison_grids, write_page
from ceeh.run.atomic import atomic_write_text
from ceeh.runtime.distributed import say


def labeled(places: Sequence[tuple[str, str]], draws: int) -> dict[str, Results]:
    """Results of (label, place) pairs by label, an empty one being the name of the evaluation.

    Evaluations where all have one; else the held-out samples of the runs, easy and hard by the base of
    the first. Raises ConfigError for a label that occurs twice.
    """
    read = read_results
    if any(held_out_file(place) and not has_results(place) for _, place in places):
        levels = easy_and_hard(places[0][1])
        read = partial(read_held_out, levels=levels, draws=draws)
    found: dict[str, Results] = {}
    for label, place in places:
        results = read(place)
        name = label or results.name
        if name in found:
            raise ConfigError(
                f"two results are called '{name}'; label them, e.g. base={found[name].folder} "
                f"tuned={results.folder}"
            )
        found[name] = results
    return found


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


def run(
    places: Sequence[tuple[str, str]], folder: Path, *, margin: float, draws: int, seed: int
) -> None:
    """Compares the results at `places` and writes comparison.json and the report into `folder`."""
    results = labeled(places, draws)
    comparison = compare(results, draws=draws, seed=seed, margin=margin)
    base, *others = results
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
    title = f"{', '.join(others)} against {base}"
    report = write_page(folder, results, title=title, comparison=comparison)
    say("\n\n".join(grid.text() for grid in comparison_grids(comparison)))
    for note in comparison["notes"]:
        say(f"note: {note}")
    say("\n".join(["", *(verdict(comparison, label) for label in others)]))
    say(f"\n{folder / 'comparison.json'}; report: {report}")
