"""The report of a run: report.html, report.png, and a table of base against tuned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from ceeh.evaluation.responses import read_responses
from ceeh.evaluation.samples import SampleTable
from ceeh.reporting import style
from ceeh.reporting.examples import sections
from ceeh.reporting.grid import Grid, change_cells, value_cells
from ceeh.reporting.page import write_html
from ceeh.reporting.panels import write_overview
from ceeh.reporting.run_panels import Rows, held_out_panels, training_panels
from ceeh.run.folder import RunFolder


def write_report(
    folder: Path,
    summary: Mapping[str, Any],
    title: str,
    *,
    rows: Rows,
    tables: Mapping[str, SampleTable],
    levels: Sequence[int] | None,
    uids: Sequence[str],
    hard: Bool[Tensor, " Q"],
) -> Path:
    """Writes report.html and report.png into the run's `folder`; returns the page's path.

    `rows` are the lines of metrics.jsonl. `tables` hold the held-out samples of "base" and "tuned" of the
    questions `uids`, `levels` the level of each, `hard` which of them are hard. The responses are those in
    `folder`/held_out, where they were written. A panel without data is left out.
    """
    training, held_out = training_panels(rows), held_out_panels(summary, tables, levels)
    write_overview(folder / "report.png", [*training[:3], *held_out])
    files = {policy: folder / "held_out" / f"{policy}.parquet" for policy in style.POLICIES}
    responses = {policy: read_responses(file) for policy, file in files.items() if file.is_file()}
    return write_html(
        folder,
        title,
        [summary_grid(summary)],
        figures=[("Held-out questions", held_out), ("Training", training)],
        examples=sections(responses, dict(zip(uids, hard.tolist(), strict=True))),
        settings=RunFolder(folder).config_file.read_text(),
    )


def summary_grid(summary: Mapping[str, Any]) -> Grid:
    """Base against tuned on all, easy and hard questions: at most 110 columns of text."""
    (pass_at,) = (name for name in summary["base"]["all"] if name.startswith("pass_at_"))
    rows = []
    for subset in ("all", "easy", "hard"):
        for policy in ("base", "tuned"):
            rows.append([subset, policy, *value_cells(summary[policy][subset], pass_at)])
        rows.append([subset, "change", *change_cells(summary["difference"][subset], pass_at)])
    counts, seconds = summary["questions"], summary.get("train_seconds")
    title = (
        f"{counts['all']} held-out questions ({counts['easy']} easy, {counts['hard']} hard), "
        f"{summary['samples']} samples each, 95 % intervals"
    )
    return Grid(
        title=title if seconds is None else f"{title}; trained for {seconds / 60:.1f} min",
        header=[
            "",
            "",
            "accuracy %",
            "tokens",
            f"{pass_at.replace('_at_', '@')} %",
            "entropy, nats",
        ],
        rows=rows,
        labels=2,
    )
