"""The report of an evaluation or a comparison: tables, report.html and report.png."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ceeh.evaluation.comparison import AVERAGE, points, shown_parts
from ceeh.evaluation.held_out import NAME
from ceeh.evaluation.responses import Response, read_responses
from ceeh.evaluation.results import Results, shared_benchmarks, shared_levels
from ceeh.reporting import style
from ceeh.reporting.examples import sections
from ceeh.reporting.grid import Grid, cell, change_cells
from ceeh.reporting.page import write_html
from ceeh.reporting.panels import Panel, write_overview

Labeled = Mapping[str, Results]
Colors = Mapping[str, str]

METRICS = (
    ("accuracy", "accuracy %", 100.0, 1),
    ("tokens", "tokens", 1.0, 1),
    ("tokens_correct", "tokens if right", 1.0, 1),
    ("tokens_wrong", "tokens if wrong", 1.0, 1),
    ("truncated_fraction", "truncated %", 100.0, 1),
    ("entropy", "entropy, nats", 1.0, 3),
)
"""Columns of a benchmark's table: metric, heading, scale, digits."""


def results_grids(results: Labeled) -> list[Grid]:
    """A table per benchmark with intervals: a row per policy, on all questions, then by level."""
    grids = []
    first = next(iter(results.values()))
    for name in shared_benchmarks(results):
        records = {label: each.record["benchmarks"][name] for label, each in results.items()}
        samples = " or ".join(dict.fromkeys(str(each["samples"]) for each in records.values()))
        questions = first.benchmarks[name].table.questions
        metrics = [record["metrics"] for record in records.values()]
        largest = [largest_shared(metrics, prefix) for prefix in ("pass_at_", "maj_at_")]
        shown = [metric for metric in largest if metric]
        names = ["level", "policy"] if len(results) > 1 else ["level"]
        headings = [heading for _, heading, *_ in METRICS] + [f"{at(each)} %" for each in shown]
        grids.append(
            Grid(
                title=f"{first.title(name)}: {questions} questions, {samples} samples each, "
                "95 % intervals",
                header=[*names, *headings],
                rows=[
                    [*(level, label)[: len(names)], *_metrics(level, record, shown)]
                    for level in ("all", *shared_levels(results, name))
                    for label, record in records.items()
                ],
                labels=len(names),
            )
        )
    return grids


def comparison_grids(comparison: Mapping[str, Any]) -> list[Grid]:
    """The paper's layout: accuracy/tokens and pass@k by benchmark. Then the paired changes."""
    parts = shown_parts(comparison)
    labels = list(comparison[AVERAGE]["models"])
    metrics = [part["models"][label] for part in parts.values() for label in labels]
    pass_at = largest_shared(metrics, "pass_at_")
    assert pass_at, "every table of samples has a pass@1"

    def layout(title: str, show: Callable[[Mapping[str, Any]], str]) -> Grid:
        rows = [
            [label, *(show(part["models"][label]) for part in parts.values())] for label in labels
        ]
        return Grid(title=title, header=["policy", *parts], rows=rows)

    header = ["benchmark", "policy", "accuracy, points", "tokens", f"{at(pass_at)}, points"]
    header += ["entropy, nats", "NAG product", "NAG quotient"]
    return [
        layout(
            "Accuracy % / tokens",
            lambda m: f"{100 * m['accuracy']['value']:.1f}/{m['tokens']['value']:.0f}",
        ),
        layout(f"{at(pass_at)} %", lambda m: f"{100 * m[pass_at]['value']:.1f}"),
        Grid(
            title=f"Change against {comparison['base']}, paired by question, 95 % intervals",
            header=[*header, f"within {points(comparison['margin'])}"],
            rows=[
                [title, label, *_change_cells(part["changes"][label], pass_at)]
                for title, part in parts.items()
                for label in labels[1:]
            ],
            labels=2,
        ),
    ]


def write_page(
    folder: Path,
    results: Labeled,
    *,
    title: str,
    comparison: Mapping[str, Any] | None = None,
) -> Path:
    """Writes report.html and report.png into `folder`; returns the page's path.

    `results` by label, the base of `comparison` first. The responses are those of the first shared benchmark
    for which all results have them.
    """
    panels = page_panels(results, comparison)
    write_overview(folder / "report.png", panels)
    settings = {
        label: {key: each.record[key] for key in ("model", "protocol", "versions")}
        for label, each in results.items()
    }
    return write_html(
        folder,
        title,
        [*(comparison_grids(comparison) if comparison else ()), *results_grids(results)],
        figures=[("Figures", panels)],
        examples=sections(*shared_responses(results)),
        notes=comparison["notes"] if comparison else (),
        settings=json.dumps(settings, indent=2),
    )


def shared_responses(results: Labeled) -> tuple[dict[str, list[Response]], dict[str, bool]]:
    """Responses by label to the first benchmark of which all results have them, and which uids are hard."""
    for name in shared_benchmarks(results):
        samples = {label: each.benchmarks[name] for label, each in results.items()}
        if not all(each.responses.is_file() for each in samples.values()):
            continue
        benchmark = None if name == NAME else name
        found = {
            label: read_responses(each.responses, benchmark) for label, each in samples.items()
        }
        first = next(iter(samples.values()))
        parts = zip(first.uids, first.levels or (), strict=False) if name == NAME else ()
        return found, {uid: level == "hard" for uid, level in parts}
    return {}, {}


def _metrics(level: str, record: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    metrics = (record if level == "all" else record["levels"][level])["metrics"]
    cells = [cell(metrics[name], scale=scale, digits=digits) for name, _, scale, digits in METRICS]
    return [*cells, *(cell(metrics.get(name), scale=100.0) for name in shown)]


def _change_cells(change: Mapping[str, Any], pass_at: str) -> list[str]:
    nags = [change[name] for name in ("nag_product", "nag_quotient")]
    return [
        *change_cells(change, pass_at),
        *("-" if nag is None else f"{nag:+.2f}" for nag in nags),
        change["within_margin"],
    ]


def largest_shared(metrics: Iterable[Mapping[str, Any]], prefix: str) -> str | None:
    """`prefix` + the largest k that all policies with such metrics have; None if none has them."""
    sizes = [found for each in metrics if (found := sizes_of(each, prefix))]
    shared = set.intersection(*sizes) if sizes else set()
    return f"{prefix}{max(shared)}" if shared else None


def sizes_of(metrics: Mapping[str, Any], prefix: str) -> set[int]:
    """Every k of the metrics called `prefix` + k."""
    return {int(name.removeprefix(prefix)) for name in metrics if name.startswith(prefix)}


def at(metric: str) -> str:
    """`pass@8` of pass_at_8."""
    return metric.replace("_at_", "@")


def page_panels(results: Labeled, comparison: Mapping[str, Any] | None) -> list[Panel]:
    """Six panels of `results` by label, the base first.

    Metrics of a policy are means over the benchmarks that all policies have; levels are those of the first
    such benchmark with levels.
    """
    shared = shared_benchmarks(results)
    averages = {
        label: comparison[AVERAGE]["models"][label] if comparison else result.record[AVERAGE]
        for label, result in results.items()
    }
    colors = {label: style.PALETTE[i % len(style.PALETTE)] for i, label in enumerate(results)}
    lengths = {
        label: np.concatenate(
            [result.benchmarks[name].table.lengths.flatten().numpy() for name in shared]
        )
        for label, result in results.items()
    }
    name = next((name for name in shared if shared_levels(results, name)), None)
    where = "" if name is None else f"{next(iter(results.values())).title(name)}: "
    no_levels = () if name else ("levels: none of these benchmarks has them",)

    def by_level(metric: str, unit: str, scale: float) -> Panel:
        return Panel(
            title=f"{where}{metric} by level",
            unit=unit,
            draw=lambda axes: _levels(axes, results, str(name), colors, metric, scale),
            caption="Questions by level: the benchmark's, or easy and hard by the base of a run. Bars end in "
            "95 % intervals.",
            missing=no_levels,
        )

    return [
        Panel(
            title="Accuracy against length",
            unit="accuracy, %",
            draw=lambda axes: _pareto(axes, averages, colors),
            caption="Up and to the left is better; bars are 95 % intervals.",
        ),
        Panel(
            title="pass@k",
            unit="questions solved, %",
            draw=lambda axes: _pass_at_k(axes, averages, colors),
            caption="Questions that at least one of k responses solves.",
        ),
        Panel(
            title="Response lengths",
            unit="share of responses, %",
            draw=lambda axes: style.length_histogram(axes, lengths, colors),
            caption="All responses by length.",
        ),
        by_level("accuracy", "accuracy, %", 100.0),
        by_level("tokens", "mean tokens", 1.0),
        Panel(
            title="Change of accuracy, paired",
            unit="",
            draw=lambda axes: _changes(axes, comparison or {}, colors),
            caption="The same questions by both policies; 95 % intervals.",
            missing=() if comparison else ("a comparison: python -m ceeh.compare",),
        ),
    ]


def _pareto(axes: Axes, averages: Mapping[str, Mapping[str, Any]], colors: Colors) -> None:
    for label, metrics in averages.items():
        style.policy_point(axes, metrics, colors[label], label=label)
    axes.set_xlabel("mean tokens")
    axes.margins(0.15)
    style.legend(axes)


def _pass_at_k(axes: Axes, averages: Mapping[str, Mapping[str, Any]], colors: Colors) -> None:
    for label, metrics in averages.items():
        sizes = sorted(sizes_of(metrics, "pass_at_"))
        points = [metrics[f"pass_at_{k}"] for k in sizes]
        value, low, high = (
            [100 * point[part] for point in points] for part in ("value", "low", "high")
        )
        axes.plot(sizes, value, color=colors[label], linewidth=2.2, marker="o", ms=4, label=label)
        axes.fill_between(sizes, low, high, color=colors[label], alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("k")
    style.legend(axes, loc="lower right")


def _levels(
    axes: Axes, results: Labeled, name: str, colors: Colors, metric: str, scale: float
) -> None:
    levels = shared_levels(results, name)
    heights = {}
    for label, result in results.items():
        found = result.record["benchmarks"][name]["levels"]
        heights[label] = style.with_arms(
            [found[level]["metrics"][metric] for level in levels], scale
        )
    style.grouped_bars(axes, levels, heights, colors)
    axes.set_xlabel("level of the question")


def _changes(axes: Axes, comparison: Mapping[str, Any], colors: Colors) -> None:
    """Change of accuracy by benchmark with its interval; the margin is shaded."""
    parts = shown_parts(comparison)
    places = np.arange(len(parts))
    others: Sequence[str] = [
        label for label in comparison[AVERAGE]["models"] if label != comparison["base"]
    ]
    for number, label in enumerate(others):
        changes = [part["changes"][label]["accuracy"] for part in parts.values()]
        value, arms = style.with_arms(changes, 100.0)
        shift = (number - (len(others) - 1) / 2) * 0.7 / max(len(others), 1)
        options = {"fmt": "o", "color": colors[label], "capsize": 3, "label": label}
        axes.errorbar(value, places + shift, xerr=arms, **options)
    margin = comparison["margin"]
    axes.axvspan(-margin, margin, color="#e6e6e6", zorder=0)
    axes.axvline(0, color="#333333", linewidth=1)
    axes.set_yticks(places, list(parts))
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlabel(f"points against {comparison['base']}; shaded: {margin:g} either way")
    style.legend(axes)
