"""How every figure looks: colors, panels, what a panel says when it has no numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

BASE, TUNED, EASY, HARD, OTHER = "#9aa5b1", "#1f6fb4", "#2a9d6f", "#d1495b", "#8a5fbf"
PALETTE = (BASE, TUNED, HARD, EASY, OTHER, "#e08e2b", "#5b8c8c", "#333333")


plain_text = rc_context({"text.parse_math": False})
"""Decorates what draws names that others chose: a dollar sign in one begins no formula."""


def new_figure() -> Figure:
    """Room for six panels. A Figure of its own, never pyplot: no global state, no window, any thread."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)  # inches
    return Figure(figsize=(15, 8.4), layout=layout, dpi=110)


def dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=12, loc="left", fontweight="bold")
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def missing(axes: Axes, names: Sequence[str]) -> None:
    axes.text(
        0.5,
        0.5,
        "not measured:\n" + "\n".join(names),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#777777",
    )
    axes.set_xticks([])
    axes.set_yticks([])


def arms(figure: Mapping[str, float], scale: float) -> np.ndarray:
    """Below and above the value [2, 1]; a percentile interval need not hold it, an arm is never negative."""
    below, above = figure["value"] - figure["low"], figure["high"] - figure["value"]
    return np.maximum([[scale * below], [scale * above]], 0)
