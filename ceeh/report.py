"""What a run leaves for people: report.html, report.png, and a console table base against tuned."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ceeh.evaluation.samples import SampleTable
from ceeh.plots import write_figure
from ceeh.provenance import redact

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
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left } td small { color: #666 }
tr.change td { font-weight: 600; border-bottom: 1px solid #ccc }
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
            f"<p>{html.escape(heading(summary))}</p>",
            _html_table(summary),
            f'<p class="caution">{CAUTION}</p>',
            f'<img alt="Training and held-out results" src="data:image/png;base64,{encoded}">',
            settings,
            "</body></html>",
        ]
    )
    report = folder / "report.html"
    report.write_text(page)
    return report


def summary_table(summary: Mapping[str, Any]) -> str:
    """Base against tuned as plain text of at most 110 columns, each figure `value [low, high]`."""
    names, rows = summary_cells(summary)
    shown = [("", "", *names)] + [
        (subset if policy == "base" else "", policy, *cells) for subset, policy, cells in rows
    ]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    for before in (7, 4, 1):  # a rule above each subset
        lines.insert(before, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([heading(summary), *lines])


def heading(summary: Mapping[str, Any]) -> str:
    counts = summary["questions"]
    text = (
        f"{counts['all']} held-out questions ({counts['easy']} easy, {counts['hard']} hard), "
        f"{summary['samples']} samples each, 95 % intervals"
    )
    seconds = summary.get("train_seconds")
    return text if seconds is None else f"{text}; trained for {seconds / 60:.1f} min"


def summary_cells(summary: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
    """Column names, and for each subset and policy its cells as text."""
    (pass_at,) = (name for name in summary["base"]["all"] if name.startswith("pass_at_"))
    names = ["accuracy %", "tokens", f"pass@{pass_at.removeprefix('pass_at_')} %", "nats per token"]
    rows = []
    for subset in SUBSETS:
        for policy in ("base", "tuned", "difference"):
            figures, change = summary[policy][subset], policy == "difference"
            sign = "+" if change else ""
            cells = [
                _cell(figures["accuracy"], 100.0, 1, sign),
                _cell(figures["tokens_relative"], 100.0, 1, sign, " %")
                if change
                else _cell(figures["tokens"], 1.0, 1, sign),
                _cell(figures[pass_at], 100.0, 1, sign),
                _cell(figures["entropy"], 1.0, 3, sign),
            ]
            rows.append((subset, "change" if change else policy, cells))
    return names, rows


def _cell(
    figure: Mapping[str, float] | None, scale: float, digits: int, sign: str, unit: str = ""
) -> str:
    if figure is None:
        return "-"
    value, low, high = (
        f"{figure[part] * scale:{sign}.{digits}f}" for part in ("value", "low", "high")
    )
    return f"{value}{unit} [{low}, {high}]"


def _html_table(summary: Mapping[str, Any]) -> str:
    names, rows = summary_cells(summary)
    head = "".join(f"<th>{name}</th>" for name in ("", "", *names))
    body = []
    for subset, policy, cells in rows:
        label = f"{subset} ({summary['questions'][subset]})" if policy == "base" else ""
        columns = [label, policy, *(cell.replace(" [", " <small>[") + "</small>" for cell in cells)]
        body.append(f'<tr class="{policy}">' + "".join(f"<td>{c}</td>" for c in columns) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
