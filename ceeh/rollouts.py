"""python -m ceeh.rollouts RUN: the sampled responses of a run as a table in the terminal."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ceeh.errors import ConfigError
from ceeh.runtime.cli import run_command
from ceeh.runtime.text import escape

SORTS = ("length", "reward", "advantage", "uid")
Rows = list[dict[str, Any]]
SHOWN = 160
"""Characters of a response in the table; `--full` shows all."""


def read_rollouts(run: Path, step: int | None) -> Rows:
    """The rows that `RolloutLog` wrote after rollout step `step`, by default the last one logged.

    Raises ConfigError for a run without rollouts and for a step that was not logged.
    """
    folder = run / "rollouts"
    files = {int(file.stem.partition("-")[2]): file for file in folder.glob("step-*.parquet")}
    if not files:
        raise ConfigError(
            f"'{run}' has no rollouts: give a run folder (runs/latest) of a run with "
            "tracking.rollouts_every_n_steps above 0"
        )
    steps = sorted(files)
    step = steps[-1] if step is None else step
    if step not in files:
        raise ConfigError(
            f"--step {step} was not logged; logged: {', '.join(map(str, steps[:20]))}"
            + (f" ... {steps[-1]}" if len(steps) > 20 else "")
        )
    try:
        return pq.read_table(files[step]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"'{files[step]}' cannot be read ({error})") from error


def selected(
    rows: Rows, *, uid: str | None, correct: bool | None, truncated: bool, sort: str | None
) -> Rows:
    """The rows asked for; `sort` is a column, with a minus in front for the largest first."""
    kept = [
        row
        for row in rows
        if uid in (None, row["uid"])
        and correct in (None, row["correct"])
        and (not truncated or row["finish"] == "length")
    ]
    if sort is not None:
        kept.sort(key=lambda row: row[sort.removeprefix("-")], reverse=sort.startswith("-"))
    return kept


def show(table: Rows, *, rows: int, full: bool) -> None:
    """Prints a line of totals and the first `rows` rows."""
    console = Console(highlight=False)
    if not table:
        console.print("no rows match")
        return
    total, lengths = len(table), [row["length"] for row in table]
    console.print(
        f"rollout step {table[0]['rollout_step']}: {total} responses to "
        f"{len({row['uid'] for row in table})} questions, "
        f"{100 * sum(row['correct'] for row in table) / total:.1f} % correct, "
        f"{sum(lengths) / total:.1f} tokens on average ({min(lengths)} to {max(lengths)})"
    )
    grid = Table(box=None, pad_edge=False, show_lines=full)
    for name in ("tokens", "finish", "correct", "reward", "advantage"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("prompt [reference] and response", overflow="fold", ratio=1)
    for row in table[:rows]:
        prompt, response = escape(row["prompt"]), escape(row["response"])
        if not full:
            prompt, response = shortened(prompt, SHOWN // 2), shortened(response, SHOWN)
        grid.add_row(
            str(row["length"]),
            row["finish"],
            Text("yes", "green") if row["correct"] else Text("no", "red"),
            f"{row['reward']:.3f}",
            f"{row['advantage']:+.3f}",
            Text.assemble((f"{prompt} [{escape(row['answer'])}]", "dim"), "\n", response),
        )
    console.print(grid)
    if total > rows:
        console.print(f"... {total - rows} more rows; --rows {total} shows all")


def shortened(text: str, limit: int) -> str:
    """The start and the end of `text`: the answer is at the end."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ceeh.rollouts", description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="a run folder, e.g. runs/latest")
    add("--step", type=int, metavar="N", help="rollout step; default: the last one logged")
    add("--uid", help="one question")
    verdict = parser.add_mutually_exclusive_group()
    verdict.add_argument("--correct", action="store_true", help="correct responses alone")
    verdict.add_argument("--incorrect", action="store_true", help="incorrect responses alone")
    add("--truncated", action="store_true", help="responses that reached the token limit")
    choices = [sign + name for name in SORTS for sign in ("", "-")]
    add(
        "--sort",
        choices=choices,
        metavar="COLUMN",
        help=f"{', '.join(SORTS)}; -length: longest first",
    )
    add("--rows", type=int, default=20, metavar="N", help="rows shown; default: %(default)s")
    add("--full", action="store_true", help="whole prompts and responses")
    given = parser.parse_args(arguments)

    def command() -> int:
        if given.rows < 1:
            raise ConfigError(f"--rows must be at least 1, got {given.rows}")
        correct = True if given.correct else False if given.incorrect else None
        table = selected(
            read_rollouts(given.run, given.step),
            uid=given.uid,
            correct=correct,
            truncated=given.truncated,
            sort=given.sort,
        )
        show(table, rows=given.rows, full=given.full)
        return 0

    return run_command(command, if_stopped="run it again", last=arguments is None, at_once=True)


if __name__ == "__main__":
    sys.exit(main())
