"""What a run leaves for people: report.html, report.png, and a console table base against tuned."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ceeh.evaluation.samples import SampleTable
from ceeh.reporting.grid import Grid, cell
from ceeh.reporting.run_figure import write_figure
from ceeh.runtime.text import redact

SUBSETS = ("all", "easy", "hard")
CAUTION = (
    "Training on length can make a chain of thought less monitorable: what is left out may be what "
    'an overseer needed to see (<a href="https://arxiv.org/abs/2607.09786">arXiv 2607.09786</a>). '
    "Do not take the shorter text for the whole of the model's reasons."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 1200px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem 1rem; text-align: right } th { border-bottom: 2px solid #222 }
.label { text-align: left } td small { color: #666 } h2 { font-size: 1.1rem; margin-top: 2rem }
img { width: 100% } pre { background: #f5f5f5; padding: 1rem; overflow: auto }
.caution { border-left: 4px solid #d1495b; padding: .2rem 1rem; background: #fcf1f2 }
"""


def write_report(
    folder: Path,
    summary: Mapping[str, Any],
    title: str,
    *,
    tables: Mapping[str, SampleTable] | None = None,
    levels: Sequence[int] | None = None,
) -> Path:
    """Writes report.html, which needs no other file, and report.png into `folder`.

    Returns the page's path. Reads the folder's metrics.jsonl and config.yaml where they exist.
    `tables` holds the held-out samples of "base" and "tuned", `levels` the level of each question,
    by index. A panel whose numbers are missing says so.
    """
    metrics, config = folder / "metrics.jsonl", folder / "config.yaml"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    image = folder / "report.png"
    write_figure(image, [json.loads(line) for line in lines], summary, tables or {}, levels)
    settings = ""
    if config.is_file():
        text = yaml.safe_dump(redact(yaml.safe_load(config.read_text())), sort_keys=False)
        settings = f"<details><summary>Settings</summary><pre>{html.escape(text)}</pre></details>"
    encoded = base64.b64encode(image.read_bytes()).decode()
    page = "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{html.escape(title)}</h1>",
            summary_grid(summary).html(),
            f'<p class="caution">{CAUTION}</p>',
            f'<img alt="Training and held-out results" src="data:image/png;base64,{encoded}">',
            settings,
            "</body></html>",
        ]
    )
    report = folder / "report.html"
    report.write_text(page)
    return report


def summary_grid(summary: Mapping[str, Any]) -> Grid:
    """Base against tuned on all, easy and hard questions: at most 110 columns of text."""
    (pass_at,) = (name for name in summary["base"]["all"] if name.startswith("pass_at_"))
    k = pass_at.removeprefix("pass_at_")
    rows = []
    for subset in SUBSETS:
        for policy in ("base", "tuned", "difference"):
            figures, change = summary[policy][subset], policy == "difference"
            tokens = (
                cell(figures["tokens_relative"], scale=100.0, signed=True, unit=" %")
                if change
                else cell(figures["tokens"])
            )
            rows.append(
                [
                    subset,
                    "change" if change else policy,
                    cell(figures["accuracy"], scale=100.0, signed=change),
                    tokens,
                    cell(figures[pass_at], scale=100.0, signed=change),
                    cell(figures["entropy"], digits=3, signed=change),
                ]
            )
    return Grid(
        title=_heading(summary),
        header=["", "", "accuracy %", "tokens", f"pass@{k} %", "nats per token"],
        rows=rows,
        labels=2,
    )


def _heading(summary: Mapping[str, Any]) -> str:
    counts = summary["questions"]
    heading = (
        f"{counts['all']} held-out questions ({counts['easy']} easy, {counts['hard']} hard), "
        f"{summary['samples']} samples each, 95 % intervals"
    )
    seconds = summary.get("train_seconds")
    return heading if seconds is None else f"{heading}; trained for {seconds / 60:.1f} min"
