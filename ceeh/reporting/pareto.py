"""Accuracy against tokens: a policy as a point with its intervals, and the picture of a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ceeh.reporting.style import BASE, TUNED, arms, dress, plain_text

MARKERS = {"easy": "^", "all": "o", "hard": "s"}


def pareto_point(
    axes: Axes, figures: Mapping[str, Any], color: str, *, marker: str = "o", label: str = ""
) -> None:
    """`tokens` and `accuracy` of `figures`; up and to the left is better, bars are 95 % intervals."""
    x, y = figures["tokens"], figures["accuracy"]
    axes.errorbar(
        x["value"],
        100 * y["value"],
        xerr=arms(x, 1.0),
        yerr=arms(y, 100.0),
        fmt=marker,
        markersize=8,
        color=color,
        capsize=3,
        label=label,
        zorder=3,
    )


@plain_text
def write_pareto(path: Path, summary: Mapping[str, Any]) -> None:
    """Draws `summary` (ceeh.evaluation.summary.summarize) into the PNG `path`, an arrow a subset.

    Subsets without questions are left out.
    """
    figure = Figure(figsize=(6.6, 4.6), layout="constrained", dpi=130)
    axes = figure.subplots()
    dress(axes, "Held-out questions: accuracy against length", "accuracy, %")
    policies = (("base", BASE), ("tuned", TUNED))
    shown = [name for name in MARKERS if summary["base"][name]["accuracy"] is not None]
    for subset in shown:
        base, tuned = (summary[policy][subset] for policy, _ in policies)
        for figures, color in ((base, BASE), (tuned, TUNED)):
            pareto_point(axes, figures, color, marker=MARKERS[subset])
        arrow = {"arrowstyle": "->", "color": "#bbbbbb", "shrinkA": 9, "shrinkB": 9}
        axes.annotate("", xy=_place(tuned), xytext=_place(base), arrowprops=arrow)
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=color, label=label)
        for marker, color, label in (
            *(("o", color, policy) for policy, color in policies),
            *((MARKERS[name], "#555555", name) for name in shown),
        )
    ]
    axes.set_xlabel("mean tokens of a response")
    axes.margins(0.12)
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="best")
    figure.savefig(path, format="png")


def _place(figures: Mapping[str, Any]) -> tuple[float, float]:
    return figures["tokens"]["value"], 100 * figures["accuracy"]["value"]
