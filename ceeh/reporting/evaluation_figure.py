"""The figure of an evaluation or a comparison: accuracy against tokens, pass@k, lengths, levels, changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ceeh.evaluation.comparison import AVERAGE, shown_parts
from ceeh.evaluation.results import Results, shared_levels
from ceeh.reporting import style

Labeled = Mapping[str, Results]
Colors = Mapping[str, str]


@style.plain_text
def write_figure(path: Path, results: Labeled, comparison: Mapping[str, Any] | None) -> None:
    """Draws six panels into the PNG `path`; a panel without data says what is missing.

    `results` by label, the base first. Metrics of a policy are means over the benchmarks that all
    policies have; levels are those of the first such benchmark with levels.
    """
    figure = style.new_figure()
    axes = figure.subplots(2, 3)
    shared = shared_names(results)
    averages = {
        label: comparison[AVERAGE]["models"][label] if comparison else result.record[AVERAGE]
        for label, result in results.items()
    }
    colors = {label: style.PALETTE[i % len(style.PALETTE)] for i, label in enumerate(results)}
    _pareto(axes[0, 0], averages, colors)
    _pass_at_k(axes[0, 1], averages, colors)
    lengths = {
        label: np.concatenate(
            [result.benchmarks[name].table.lengths.flatten().numpy() for name in shared]
        )
        for label, result in results.items()
    }
    style.length_histogram(axes[0, 2], lengths, colors, "Response lengths")
    with_levels = next((name for name in shared if shared_levels(results, name)), None)
    _levels(axes[1, 0], results, with_levels, colors, "accuracy", "accuracy, %", 100.0)
    _levels(axes[1, 1], results, with_levels, colors, "tokens", "mean tokens", 1.0)
    _changes(axes[1, 2], comparison, colors)
    figure.savefig(path, format="png")


def shared_names(results: Labeled) -> list[str]:
    """The benchmarks that all results have, in the order of the first."""
    first, *others = results.values()
    return [name for name in first.benchmarks if all(name in each.benchmarks for each in others)]


def _pareto(axes: Axes, averages: Mapping[str, Mapping[str, Any]], colors: Colors) -> None:
    style.dress(axes, "Accuracy against length", "accuracy, %")
    for label, metrics in averages.items():
        style.policy_point(axes, metrics, colors[label], label=label)
    axes.set_xlabel("mean tokens")
    axes.margins(0.15)
    style.legend(axes)


def _pass_at_k(axes: Axes, averages: Mapping[str, Mapping[str, Any]], colors: Colors) -> None:
    style.dress(axes, "pass@k", "questions solved, %")
    for label, metrics in averages.items():
        sizes = sorted(
            int(name.removeprefix("pass_at_")) for name in metrics if name.startswith("pass_at_")
        )
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
    axes: Axes,
    results: Labeled,
    name: str | None,
    colors: Colors,
    metric: str,
    unit: str,
    scale: float,
) -> None:
    if name is None:
        style.dress(axes, f"{metric.capitalize()} by level", unit)
        style.missing(axes, ["levels: none of these benchmarks has them"])
        return
    style.dress(axes, f"{next(iter(results.values())).title(name)}: {metric} by level", unit)
    levels = shared_levels(results, name)
    heights = {}
    for label, result in results.items():
        found = result.record["benchmarks"][name]["levels"]
        heights[label] = style.with_arms(
            [found[level]["metrics"][metric] for level in levels], scale
        )
    style.grouped_bars(axes, levels, heights, colors)
    axes.set_xlabel("level of the question")


def _changes(axes: Axes, comparison: Mapping[str, Any] | None, colors: Colors) -> None:
    """Change of accuracy by benchmark with its interval; the margin is shaded."""
    style.dress(axes, "Change of accuracy, paired", "")
    if comparison is None:
        style.missing(axes, ["a comparison: python -m ceeh.compare"])
        return
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
