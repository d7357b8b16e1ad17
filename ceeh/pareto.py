"""The picture of a model card: accuracy against tokens, base and tuned, with their intervals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ceeh.plot_style import BASE, TUNED, dress

MARKERS = {"easy": "^", "all": "o", "hard": "s"}


def write_pareto(path: Path, summary: Mapping[str, Any]) -> None:
    """Draws `summary` (ceeh.evaluation.summary.summarise) into the PNG `path`; up and left is better.

    Error bars are the 95 % intervals of tokens and accuracy. Subsets without questions are left out.
    """
    figure = Figure(figsize=(6.6, 4.6), layout="constrained", dpi=130)
    axes = figure.subplots()
    shown = [name for name in MARKERS if summary["base"][name]["accuracy"] is not None]
    for subset in shown:
        ends = {}
        for policy, colour in (("base", BASE), ("tuned", TUNED)):
            figures = summary[policy][subset]
            x, y = _bar(figures["tokens"], 1.0), _bar(figures["accuracy"], 100.0)
            ends[policy] = (x[0], y[0])
            axes.errorbar(
                x[0],
                y[0],
                xerr=x[1],
                yerr=y[1],
                fmt=MARKERS[subset],
                color=colour,
                markersize=8,
                elinewidth=1.2,
                capsize=3,
                ecolor="#333333",
                zorder=3,
            )
        arrow = {"arrowstyle": "->", "color": "#bbbbbb", "shrinkA": 9, "shrinkB": 9}
        axes.annotate("", xy=ends["tuned"], xytext=ends["base"], arrowprops=arrow)
    dress(axes, "Held-out questions: accuracy against length", "accuracy, %")
    axes.set_xlabel("mean tokens of a response")
    handles = [
        Line2D([], [], linestyle="none", marker="o", color=colour, label=policy)
        for policy, colour in (("base", BASE), ("tuned", TUNED))
    ] + [
        Line2D([], [], linestyle="none", marker=MARKERS[name], color="#555555", label=name)
        for name in shown
    ]
    axes.margins(0.12)
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="best")
    figure.savefig(path, format="png")


def _bar(figure: Mapping[str, float], scale: float) -> tuple[float, list[list[float]]]:
    """A figure and how far its interval reaches below and above it."""
    value, low, high = (figure[part] * scale for part in ("value", "low", "high"))
    # A percentile interval need not hold the estimate; an error bar cannot be negative.
    return value, [[max(value - low, 0.0)], [max(high - value, 0.0)]]
