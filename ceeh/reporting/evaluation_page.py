"""What an evaluation or a comparison leaves for people: tables, report.html and report.png."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ceeh.evaluation.comparison import AVERAGE, points, shown_parts
from ceeh.evaluation.results import Results, shared_levels
from ceeh.reporting.evaluation_figure import write_figure
from ceeh.reporting.grid import Grid, cell
from ceeh.reporting.run_page import CAUTION, STYLE

FIGURES = (
    ("accuracy", "accuracy %", 100.0, 1),
    ("tokens", "tokens", 1.0, 1),
    ("tokens_correct", "correct", 1.0, 1),
    ("tokens_wrong", "wrong", 1.0, 1),
    ("truncated_fraction", "truncated %", 100.0, 1),
    ("entropy", "nats per token", 1.0, 3),
)


def results_grids(results: Mapping[str, Results]) -> list[Grid]:
    """Every policy's figures with intervals: a row per benchmark and policy, then per level."""
    grids = []
    for name in _benchmarks(results):
        first = next(iter(results.values()))
        told = first.record["benchmarks"][name]
        sizes = {prefix: _shared_size(results, name, prefix) for prefix in ("pass", "maj")}
        shown = [f"{prefix}_at_{size}" for prefix, size in sizes.items() if size]
        samples = dict.fromkeys(
            str(each.record["benchmarks"][name]["samples"]) for each in results.values()
        )
        grids.append(
            Grid(
                title=f"{first.title(name)}: {told['questions']} questions, {' or '.join(samples)} "
                "samples each, 95 % intervals",
                header=[
                    "level",
                    "policy",
                    *(words for _, words, *_ in FIGURES),
                    *(f"{figure.replace('_at_', '@')} %" for figure in shown),
                ],
                rows=[
                    _row(level, label, each, name, shown)
                    for level in ("all", *shared_levels(results, name))
                    for label, each in results.items()
                ],
                labels=2,
            )
        )
    return grids


def comparison_grids(comparison: Mapping[str, Any]) -> list[Grid]:
    """The paper's layout, accuracy/tokens and pass@k by benchmark; then the paired changes."""
    parts = shown_parts(comparison)
    titles = list(parts)
    labels = list(comparison[AVERAGE]["models"])
    k = min(
        _largest(part["models"][label], "pass_at_") for part in parts.values() for label in labels
    )

    def layout(show: Any) -> list[list[str]]:
        return [
            [label, *(show(part["models"][label]) for part in parts.values())] for label in labels
        ]

    grids = [
        Grid(
            title="Accuracy % / tokens",
            header=["policy", *titles],
            rows=layout(lambda f: f"{100 * f['accuracy']['value']:.1f}/{f['tokens']['value']:.0f}"),
        ),
        Grid(
            title=f"pass@{k} %",
            header=["policy", *titles],
            rows=layout(lambda f: f"{100 * f[f'pass_at_{k}']['value']:.1f}"),
        ),
    ]
    rows = [
        [title, label, *_change_cells(part["changes"][label], k)]
        for title, part in zip(titles, parts.values(), strict=True)
        for label in labels[1:]
    ]
    margin = f"within {points(comparison['margin'])}"
    header = ["benchmark", "policy", "accuracy, points", "tokens", f"pass@{k}, points"]
    return [
        *grids,
        Grid(
            title=f"Change against {comparison['base']}, paired by question, 95 % intervals",
            header=[*header, "nats per token", "NAG product", "NAG quotient", margin],
            rows=rows,
            labels=2,
        ),
    ]


def write_page(
    folder: Path,
    results: Mapping[str, Results],
    *,
    title: str,
    comparison: Mapping[str, Any] | None = None,
) -> Path:
    """Writes report.html, which needs no other file, and report.png into `folder`.

    `results` by label, the base of `comparison` first. Returns the page's path.
    """
    image = folder / "report.png"
    write_figure(image, results, comparison)
    grids = [*(comparison_grids(comparison) if comparison else ()), *results_grids(results)]
    remarks = comparison["notes"] if comparison else []
    encoded = base64.b64encode(image.read_bytes()).decode()
    page = "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{html.escape(title)}</h1>",
            f'<img alt="Accuracy, length and pass@k" src="data:image/png;base64,{encoded}">',
            *(grid.html() for grid in grids),
            *(f"<p>Note: {html.escape(remark)}</p>" for remark in remarks),
            f'<p class="caution">{CAUTION}</p>',
            _settings(results),
            "</body></html>",
        ]
    )
    report = folder / "report.html"
    report.write_text(page)
    return report


def _row(level: str, label: str, result: Results, name: str, shown: Sequence[str]) -> list[str]:
    told = result.record["benchmarks"][name]
    figures = told["metrics"] if level == "all" else told["levels"][level]["metrics"]
    cells = [cell(figures[key], scale=scale, digits=digits) for key, _, scale, digits in FIGURES]
    return [level, label, *cells, *(cell(figures.get(key), scale=100.0) for key in shown)]


def _shared_size(results: Mapping[str, Results], name: str, prefix: str) -> int:
    """The largest k for which all policies that have the figure have it; 0 when none has."""
    sizes = [
        {int(k) for kind, _, k in (key.partition("_at_") for key in figures) if kind == prefix}
        for figures in (each.record["benchmarks"][name]["metrics"] for each in results.values())
    ]
    return max(set.intersection(*filter(None, sizes)), default=0) if any(sizes) else 0


def _change_cells(change: Mapping[str, Any], k: int) -> list[str]:
    nags = [change[name] for name in ("nag_product", "nag_quotient")]
    return [
        cell(change["accuracy"], scale=100.0, signed=True),
        cell(change["tokens_relative"], scale=100.0, signed=True, unit=" %"),
        cell(change[f"pass_at_{k}"], scale=100.0, signed=True),
        cell(change["entropy"], digits=3, signed=True),
        *("-" if nag is None else f"{nag:+.2f}" for nag in nags),
        change["within_margin"],
    ]


def _benchmarks(results: Mapping[str, Results]) -> list[str]:
    first, *others = results.values()
    return [name for name in first.benchmarks if all(name in each.benchmarks for each in others)]


def _largest(figures: Mapping[str, Any], prefix: str) -> int:
    """The largest k of the figures called prefix + k; 0 without one."""
    sizes = [int(name.removeprefix(prefix)) for name in figures if name.startswith(prefix)]
    return max(sizes, default=0)


def _settings(results: Mapping[str, Results]) -> str:
    told = {
        label: {key: each.record[key] for key in ("model", "protocol", "versions")}
        for label, each in results.items()
    }
    text = html.escape(json.dumps(told, indent=2))
    return f"<details><summary>Models, settings, versions</summary><pre>{text}</pre></details>"
