"""The figure of an evaluation or a comparison: accuracy against tokens, pass@k, lengths, levels, changes.

Axes: Q questions, K samples per question.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ceeh.evaluation.comparison import AVERAGE, shown_parts
from ceeh.evaluation.results import Results, shared_levels
from ceeh.reporting.pareto import pareto_point
from ceeh.reporting.style import PALETTE, arms, dress, missing, new_figure, plain_text

Figures = Mapping[str, Any]
Labeled = Mapping[str, Results]


@plain_text
def write_figure(path: Path, results: Labeled, comparison: Mapping[str, Any] | None) -> None:
    """Draws six panels into the PNG `path`; a panel without numbers says so.

    `results` by label, the base first. Figures of policies are means over the benchmarks that all
    have; levels are those of the first benchmark with levels.
    """
    figure = new_figure()
    axes = figure.subplots(2, 3)
    shared = [
        name
        for name in next(iter(results.values())).benchmarks
        if all(name in result.benchmarks for result in results.values())
    ]
    averages = {label: _average(result, comparison, label) for label, result in results.items()}
    colors = {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(results)}
    _pareto(axes[0, 0], averages, colors)
    _pass_at_k(axes[0, 1], averages, colors)
    _lengths(axes[0, 2], results, shared, colors)
    levelled = next((name for name in shared if shared_levels(results, name)), None)
    _levels(axes[1, 0], results, levelled, colors, "accuracy", "accuracy, %", 100.0)
    _levels(axes[1, 1], results, levelled, colors, "tokens", "mean tokens", 1.0)
    _changes(axes[1, 2], comparison, colors)
    figure.savefig(path, format="png")


def _average(result: Results, comparison: Mapping[str, Any] | None, label: str) -> Figures:
    return comparison[AVERAGE]["models"][label] if comparison else result.record[AVERAGE]


def _pareto(axes: Axes, averages: Mapping[str, Figures], colors: Mapping[str, str]) -> None:
    """Up and to the left is better; bars are 95 % intervals."""
    dress(axes, "Accuracy against length", "accuracy, %")
    for label, figures in averages.items():
        pareto_point(axes, figures, colors[label], label=label)
    axes.set_xlabel("mean tokens")
    axes.margins(0.15)
    axes.legend(frameon=False, fontsize=9)


def _pass_at_k(axes: Axes, averages: Mapping[str, Figures], colors: Mapping[str, str]) -> None:
    dress(axes, "pass@k", "questions solved, %")
    for label, figures in averages.items():
        sizes = sorted(
            int(name.removeprefix("pass_at_")) for name in figures if name.startswith("pass_at_")
        )
        points = [figures[f"pass_at_{k}"] for k in sizes]
        value, low, high = (
            [100 * point[part] for point in points] for part in ("value", "low", "high")
        )
        axes.plot(sizes, value, color=colors[label], linewidth=2.2, marker="o", ms=4, label=label)
        axes.fill_between(sizes, low, high, color=colors[label], alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("k")
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _lengths(
    axes: Axes, results: Labeled, shared: Sequence[str], colors: Mapping[str, str]
) -> None:
    """Histograms of all benchmarks' responses together, on a logarithmic scale when they are wide."""
    dress(axes, "Response lengths", "share of responses, %")
    lengths = {
        label: np.concatenate(
            [result.benchmarks[name].table.lengths.flatten().numpy() for name in shared]
        )
        for label, result in results.items()
    }
    everything = np.concatenate(list(lengths.values()))
    low, high = (float(value) for value in np.percentile(everything, [0, 99.5]))
    wide = high > 100 * max(low, 1)
    edges = np.geomspace(max(low, 1), high + 1, 41) if wide else np.linspace(0, high + 1, 41)
    for label, values in lengths.items():
        counts, _ = np.histogram(np.minimum(values, high), edges)
        share = 100 * counts / len(values)
        axes.stairs(share, edges, color=colors[label], linewidth=1.8, label=label)
        axes.stairs(share, edges, color=colors[label], alpha=0.12, fill=True)
        axes.axvline(values.mean(), color=colors[label], linewidth=1.6, linestyle="--")
    if wide:
        axes.set_xscale("log")
    axes.set_xlabel("tokens; dashed: mean; the last bin holds all longer ones")
    axes.legend(frameon=False, fontsize=9)


def _levels(
    axes: Axes,
    results: Labeled,
    name: str | None,
    colors: Mapping[str, str],
    figure: str,
    unit: str,
    scale: float,
) -> None:
    if name is None:
        dress(axes, f"{figure.capitalize()} by level", unit)
        missing(axes, ["levels: no benchmark of these names them"])
        return
    first = next(iter(results.values()))
    dress(axes, f"{first.title(name)}: {figure} by level", unit)
    levels = shared_levels(results, name)
    width = 0.8 / len(results)
    for number, (label, result) in enumerate(results.items()):
        found = [result.record["benchmarks"][name]["levels"][level]["metrics"] for level in levels]
        points = [each[figure] for each in found]
        bars = np.concatenate([arms(point, scale) for point in points], 1)
        axes.bar(
            np.arange(len(levels)) + (number - (len(results) - 1) / 2) * width,
            [scale * point["value"] for point in points],
            width=0.92 * width,
            color=colors[label],
            yerr=bars.tolist(),
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
            label=label,
        )
    axes.set_xticks(np.arange(len(levels)), levels)
    axes.set_xlabel("level of the question")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    axes.legend(frameon=False, fontsize=9, ncols=min(len(results), 3), loc="upper right")


def _changes(axes: Axes, comparison: Mapping[str, Any] | None, colors: Mapping[str, str]) -> None:
    """Change of accuracy by benchmark with its interval; the margin is shaded."""
    dress(axes, "Change of accuracy, paired", "")
    if comparison is None:
        missing(axes, ["a comparison: python -m ceeh.compare"])
        return
    parts = shown_parts(comparison)
    names = list(parts)
    others = [label for label in comparison[AVERAGE]["models"] if label != comparison["base"]]
    for number, label in enumerate(others):
        points = [part["changes"][label]["accuracy"] for part in parts.values()]
        shift = (number - (len(others) - 1) / 2) * 0.7 / max(len(others), 1)
        axes.errorbar(
            [100 * point["value"] for point in points],
            np.arange(len(names)) + shift,
            xerr=np.concatenate([arms(point, 100.0) for point in points], 1),
            fmt="o",
            color=colors[label],
            capsize=3,
            label=label,
        )
    margin = comparison["margin"]
    axes.axvspan(-margin, margin, color="#e6e6e6", zorder=0)
    axes.axvline(0, color="#333333", linewidth=1)
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"points against {comparison['base']}; shaded: {margin:g} either way")
    axes.legend(frameon=False, fontsize=9)
