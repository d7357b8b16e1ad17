"""Accuracy against tokens: the picture of a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ceeh.reporting.style import POLICIES, dress, legend, plain_text, policy_point

MARKERS = {"easy": "^", "all": "o", "hard": "s"}


@plain_text
def write_pareto(path: Path, summary: Mapping[str, Any]) -> None:
    """Draws `summary` (ceeh.evaluation.summary.summarize) into the PNG `path`, one arrow per subset.

    Subsets without questions are left out.
    """
    figure = Figure(figsize=(6.6, 4.6), layout="constrained", dpi=130)
    axes = figure.subplots()
    dress(axes, "Held-out questions: accuracy against length", "accuracy, %")
    shown = [name for name in MARKERS if summary["base"][name]["accuracy"] is not None]
    for subset in shown:
        for policy, color in POLICIES.items():
            policy_point(axes, summary[policy][subset], color, marker=MARKERS[subset])
        start, end = (
            (metrics["tokens"]["value"], 100 * metrics["accuracy"]["value"])
            for metrics in (summary[policy][subset] for policy in POLICIES)
        )
        arrow = {"arrowstyle": "->", "color": "#bbbbbb", "shrinkA": 9, "shrinkB": 9}
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
    entries = [("o", color, policy) for policy, color in POLICIES.items()]
    entries += [(MARKERS[name], "#555555", name) for name in shown]
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=color, label=label)
        for marker, color, label in entries
    ]
    axes.set_xlabel("mean tokens of a response")
    axes.margins(0.12)
    legend(axes, handles=handles, loc="best")
    figure.savefig(path, format="png")
