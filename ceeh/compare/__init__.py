"""python -m ceeh.compare [LABEL=]FOLDER [LABEL=]FOLDER ...: compares evaluations, paired by question.

As in `ceeh.fit`, the arguments are checked before torch is imported; `ceeh.compare.run` does the work.
"""

import argparse
from collections.abc import Sequence

from ceeh.errors import ConfigError
from ceeh.run.places import COMPARISON, check_report_folder
from ceeh.runtime.cli import run_command
from ceeh.runtime.paths import expanded


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
        places = places_of(given.results)
        folder = expanded(given.output)
        check_report_folder(folder, "--output:", COMPARISON)
        from ceeh.compare.run import run

        run(places, folder, margin=given.margin, draws=given.draws, seed=given.seed)
        return 0

    return run_command(
        command, if_stopped="run the same command again", last=arguments is None, at_once=True
    )


def places_of(results: Sequence[str]) -> list[tuple[str, str]]:
    """Label, or empty text, and place of each [LABEL=]FOLDER.

    Raises ConfigError for fewer than two and for a place that is not there.
    """
    if len(results) < 2:
        raise ConfigError("give at least two results; the first is the baseline")
    places = []
    for given in results:
        label, equals, place = given.partition("=")
        whole = not equals or expanded(given).exists()
        places.append(("", given) if whole else (label, place))
    for _, place in places:
        if not expanded(place).exists():
            raise ConfigError(
                f"'{place}' does not exist; give the output folder of python -m ceeh.evaluate, or a "
                "run folder"
            )
    return places
