"""How every figure looks: colors, panels, and the plots that several figures share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

BASE, TUNED, EASY, HARD, OTHER = "#9aa5b1", "#1f6fb4", "#2a9d6f", "#d1495b", "#8a5fbf"
PALETTE = (BASE, TUNED, HARD, EASY, OTHER, "#e08e2b", "#5b8c8c", "#333333")
POLICIES = {"base": BASE, "tuned": TUNED}

plain_text = rc_context({"text.parse_math": False})
"""Decorator for functions that draw user-chosen names: a dollar sign starts no formula."""


def new_figure() -> Figure:
    """Six panels. A plain Figure, not pyplot: no global state, no window, any thread."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)  # inches
    return Figure(figsize=(15, 8.4), layout=layout, dpi=110)


def dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=12, loc="left", fontweight="bold")
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def legend(axes: Axes, **options: Any) -> None:
    axes.legend(**({"frameon": False, "fontsize": 9} | options))


def missing(axes: Axes, names: Sequence[str]) -> None:
    """Text instead of a plot: what was not measured."""
    text = "not measured:\n" + "\n".join(names)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#777777")
    axes.set_xticks([])
    axes.set_yticks([])


def smooth(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The running mean over about a tenth of the values."""
    half = max(1, len(values) // 10) // 2
    return np.array([np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def with_arms(
    metrics: Sequence[Mapping[str, float]], scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Values [n] and how far their intervals reach below and above [2, n].

    A percentile interval may exclude its value; an error bar cannot be negative.
    """
    value, low, high = (
        scale * np.array([metric[part] for metric in metrics]) for part in ("value", "low", "high")
    )
    return value, np.maximum([value - low, high - value], 0)


def policy_point(
    axes: Axes, metrics: Mapping[str, Any], color: str, *, marker: str = "o", label: str = ""
) -> None:
    """Accuracy against tokens; up and to the left is better, bars are 95 % intervals."""
    x, x_arms = with_arms([metrics["tokens"]])
    y, y_arms = with_arms([metrics["accuracy"]], 100.0)
    style = {"fmt": marker, "markersize": 8, "color": color, "capsize": 3, "zorder": 3}
    axes.errorbar(x, y, xerr=x_arms, yerr=y_arms, label=label, **style)


def grouped_bars(
    axes: Axes,
    groups: Sequence[str],
    heights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colors: Mapping[str, str],
) -> None:
    """A bar per label in each of the n `groups`; `heights` are values [n] and error bars [n] or [2, n]."""
    width = 0.8 / len(heights)
    for number, (label, (values, arms)) in enumerate(heights.items()):
        axes.bar(
            np.arange(len(groups)) + (number - (len(heights) - 1) / 2) * width,
            values,
            width=0.92 * width,
            color=colors[label],
            yerr=arms.tolist(),  # a [2, 1] array makes matplotlib call float() on rows
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
            label=label,
        )
    axes.set_xticks(np.arange(len(groups)), groups)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)  # room for the legend
    legend(axes, ncols=min(len(heights), 3), loc="upper right")


def length_histogram(
    axes: Axes, lengths: Mapping[str, np.ndarray], colors: Mapping[str, str]
) -> None:
    """Response lengths by label, on a logarithmic scale if their range is wide."""
    low, high = np.percentile(np.concatenate(list(lengths.values())), [0, 99.5]).tolist()
    wide = high > 100 * max(low, 1)
    edges = np.geomspace(max(low, 1), high + 1, 41) if wide else np.linspace(0, high + 1, 41)
    for label, values in lengths.items():
        counts, _ = np.histogram(np.minimum(values, high), edges)
        share, color, mean = 100 * counts / len(values), colors[label], values.mean()
        axes.stairs(share, edges, color=color, linewidth=1.8, label=f"{label}, mean {mean:.0f}")
        axes.stairs(share, edges, color=color, alpha=0.12, fill=True)
        axes.axvline(mean, color=color, linewidth=1.6, linestyle="--")
    if wide:
        axes.set_xscale("log")
    axes.set_xlabel("tokens; dashed: mean; the last bin includes all longer ones")
    legend(axes)
