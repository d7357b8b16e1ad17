"""The report of a run: report.html, report.png, and a table of base against tuned."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ceeh.evaluation.samples import SampleTable
from ceeh.reporting.grid import Grid, cell
from ceeh.reporting.page import write_html
from ceeh.reporting.run_figure import write_figure
from ceeh.runtime.text import redact


def write_report(
    folder: Path,
    summary: Mapping[str, Any],
    title: str,
    *,
    tables: Mapping[str, SampleTable] | None = None,
    levels: Sequence[int] | None = None,
) -> Path:
    """Writes report.html and report.png into `folder`; returns the page's path.

    Reads the folder's metrics.jsonl and config.yaml if they exist. `tables` holds the held-out samples
    of "base" and "tuned", `levels` the level of each question by index. A panel without data says so.
    """
    metrics, config = folder / "metrics.jsonl", folder / "config.yaml"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    rows = [json.loads(line) for line in lines]
    write_figure(folder / "report.png", rows, summary, tables or {}, levels)
    settings = redact(yaml.safe_load(config.read_text())) if config.is_file() else None
    return write_html(
        folder,
        title,
        [summary_grid(summary)],
        alt="Training and held-out results",
        settings=yaml.safe_dump(settings, sort_keys=False) if settings else "",
    )


def summary_grid(summary: Mapping[str, Any]) -> Grid:
    """Base against tuned on all, easy and hard questions: at most 110 columns of text."""
    (pass_at,) = (name for name in summary["base"]["all"] if name.startswith("pass_at_"))
    rows = []
    for subset in ("all", "easy", "hard"):
        for policy in ("base", "tuned", "difference"):
            metrics, change = summary[policy][subset], policy == "difference"
            tokens = (
                cell(metrics["tokens_relative"], scale=100.0, signed=True, unit=" %")
                if change
                else cell(metrics["tokens"])
            )
            rows.append(
                [
                    subset,
                    "change" if change else policy,
                    cell(metrics["accuracy"], scale=100.0, signed=change),
                    tokens,
                    cell(metrics[pass_at], scale=100.0, signed=change),
                    cell(metrics["entropy"], digits=3, signed=change),
                ]
            )
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
            "nats per token",
        ],
        rows=rows,
        labels=2,
    )
