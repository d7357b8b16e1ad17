"""python -m ceeh.rollouts RUN: the sampled responses of a run as a table in the terminal."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ceeh.errors import ConfigError, first_line
from ceeh.run.rollout_files import rollout_files
from ceeh.runtime.cli import run_command
from ceeh.runtime.text import escape

SORTS = ("length", "reward", "advantage", "entropy", "uid")
Rows = list[dict[str, Any]]
SHOWN = 160
"""Characters of a response in the table; `--full` and `--number` show all."""
NUMBER = "number"
"""Of a response within its file, from 1."""
TEXTS = ("prompt", "answer", "response")
NEEDED = ("rollout_step", "uid", *TEXTS, "length", "finish", "correct", "reward", "advantage")


def read_rollouts(run: Path, step: int | None) -> Rows:
    """The rows that `RolloutLog` wrote after rollout step `step`, by default the last one logged.

    Raises ConfigError for a run without rollouts, a step that was not logged, and a damaged file.
    """
    files = rollout_files(run / "rollouts", "step")
    if not files:
        raise ConfigError(
            f"'{run}' has no rollouts: give a run folder (runs/latest) of a run with "
            "tracking.rollouts_every_n_steps above 0"
        )
    steps = [*files]
    step = steps[-1] if step is None else step
    if step not in files:
        raise ConfigError(
            f"--step {step} was not logged; logged: {', '.join(map(str, steps[:20]))}"
            + (f" ... {steps[-1]}" if len(steps) > 20 else "")
        )
    try:
        table = pq.read_table(files[step])
        if missing := [name for name in NEEDED if name not in table.column_names]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        rows = table.to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ConfigError(
            f"'{files[step]}' cannot be read as responses of a run ({first_line(error)}); remove it, or show "
            "another step with --step"
        ) from error
    # Files of older versions have no entropy.
    return [{NUMBER: n, "entropy": math.nan} | row for n, row in enumerate(rows, 1)]


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
    grid = Table(box=None, pad_edge=False)
    for name in ("", "result", "tokens", "reward", "advantage", "entropy"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column(Text("prompt [reference], response"), overflow="fold", ratio=1)
    for row in table[:rows]:
        prompt, response = escape(row["prompt"]), escape(row["response"])
        if not full:
            prompt, response = shortened(prompt, SHOWN // 2), shortened(response, SHOWN)
        grid.add_row(
            str(row[NUMBER]),
            result(row),
            str(row["length"]),
            f"{row['reward']:.3f}",
            f"{row['advantage']:+.3f}",
            f"{row['entropy']:.3f}",
            Text.assemble((f"{prompt} [{escape(row['answer'])}]", "dim"), "\n", response),
        )
    console.print(grid)
    if total > rows:
        console.print(f"... {total - rows} more rows; --rows {total} shows all")
    console.print(f"--number {table[0][NUMBER]} shows the first one in full", style="dim")


def show_one(rows: Rows, number: int) -> None:
    """Prints a response in full, with all that is known of it. Raises ConfigError for another number."""
    if not 1 <= number <= len(rows):
        raise ConfigError(f"--number must be 1 to {len(rows)}, got {number}")
    row, console = rows[number - 1], Console(highlight=False)
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("result", result(row))
    for name, value in row.items():
        if name not in TEXTS and value is not None:
            grid.add_row(
                name, Text(f"{value:.4g}" if isinstance(value, float) else escape(str(value)))
            )
    console.print(grid)
    for name in TEXTS:
        console.print(Text(f"\n{'reference' if name == 'answer' else name}", "bold"))
        console.print(Text(escape(row[name])))


def result(row: dict[str, Any]) -> Text:
    if row["finish"] == "length":
        return Text("truncated", "yellow")
    return Text("right", "green") if row["correct"] else Text("wrong", "red")


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
    add("--number", type=int, metavar="N", help="one response in full, by its number in the table")
    add("--uid", help="one question")
    verdict = parser.add_mutually_exclusive_group()
    verdict.add_argument(
        "--right", "--correct", action="store_true", help="correct responses alone"
    )
    verdict.add_argument(
        "--wrong", "--incorrect", action="store_true", help="incorrect responses alone"
    )
    add("--truncated", action="store_true", help="responses that reached the token limit")
    choices = [sign + name for name in SORTS for sign in ("", "-")]
    add(
        "--sort",
        choices=choices,
        metavar="COLUMN",
        help=f"{', '.join(SORTS)}; --sort=-length: longest first",
    )
    add("--rows", type=int, default=20, metavar="N", help="rows shown; default: %(default)s")
    add("--full", action="store_true", help="whole prompts and responses")
    given = parser.parse_args(arguments)

    def command() -> int:
        if given.rows < 1:
            raise ConfigError(f"--rows must be at least 1, got {given.rows}")
        logged = read_rollouts(given.run, given.step)
        if given.number is not None:
            show_one(logged, given.number)
            return 0
        correct = True if given.right else False if given.wrong else None
        table = selected(
            logged,
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
