"""The figure of a run: how the training went, and what base and tuned do on held-out questions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ceeh.evaluation.samples import SampleTable
from ceeh.reporting.style import (
    BASE,
    EASY,
    HARD,
    OTHER,
    TUNED,
    dress,
    missing,
    new_figure,
    plain_text,
)

Rows = Sequence[Mapping[str, Any]]
Lines = Sequence[tuple[str, str, str, float]]

ACCURACY: Lines = (("rollout/accuracy", "accuracy", OTHER, 100.0),)
TOKENS: Lines = (("rollout/tokens_mean", "tokens", TUNED, 1.0),)
ENTROPY: Lines = (
    ("loss/entropy_easy", "easy", EASY, 1.0),
    ("loss/entropy_hard", "hard", HARD, 1.0),
)
SIGNALS: Lines = (
    ("signal/hard_fraction", "hard", HARD, 100.0),
    ("signal/accuracy_history_mean", "threshold", OTHER, 100.0),
    ("signal/optimal_length_coverage", "optimal length known", EASY, 100.0),
)
"""Lines of the training panels: metric, label, color, scale."""


@plain_text
def write_figure(
    path: Path,
    rows: Rows,
    summary: Mapping[str, Any],
    tables: Mapping[str, SampleTable],
    levels: Sequence[int] | None,
) -> None:
    """Draws six panels into the PNG `path`; a panel whose numbers are missing says which.

    `rows` are the lines of metrics.jsonl, `tables` hold "base" and "tuned", `levels` a level per
    question. Without levels or tables the held-out panels show easy, hard and all with intervals.
    """
    figure = new_figure()
    axes = figure.subplots(2, 3)
    _training(axes[0, 0], rows)
    _entropy(axes[0, 1], rows)
    _signals(axes[0, 2], rows)
    both = {"base", "tuned"} <= set(tables)
    if levels is not None and both:
        _levels(
            axes[1, 0], tables, levels, lambda t: t.correct.double().mean(1).cpu().numpy() * 100
        )
        _levels(axes[1, 1], tables, levels, lambda t: t.lengths.double().mean(1).cpu().numpy())
    else:
        _subsets(axes[1, 0], summary, "accuracy", 100.0)
        _subsets(axes[1, 1], summary, "tokens", 1.0)
    dress(axes[1, 0], "Held-out accuracy", "accuracy, %")
    dress(axes[1, 1], "Held-out response length", "mean tokens")
    axes[1, 0].set_ylim(0, 118)
    axes[1, 0].set_yticks(range(0, 101, 20))
    if both:
        _lengths(axes[1, 2], tables)
    else:
        missing(axes[1, 2], ["held-out samples"])
    dress(axes[1, 2], "Held-out response lengths", "share of responses, %")
    figure.savefig(path, format="png")


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rollout steps and values of the metric where it was measured; empty when it never was."""
    found = [(row["rollout_step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    return steps, values


def _line(axes: Axes, rows: Rows, name: str, label: str, color: str, scale: float) -> bool:
    """The metric as it is, pale, and its running mean over about a tenth of the run."""
    steps, values = series(rows, name)
    if not len(steps):
        return False
    window = max(1, len(values) // 10) // 2
    smooth = [values[max(0, i - window) : i + window + 1].mean() for i in range(len(values))]
    axes.plot(steps, values * scale, color=color, alpha=0.3, linewidth=1)
    axes.plot(steps, np.array(smooth) * scale, color=color, linewidth=2.2, label=label)
    return True


def _over_steps(axes: Axes, rows: Rows, lines: Lines) -> bool:
    drawn = [_line(axes, rows, *line) for line in lines]
    if not any(drawn):
        missing(axes, [name for name, *_ in lines])
        return False
    axes.set_xlabel("rollout step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    # Room above the curves for the legend.
    axes.set_ylim(top=axes.get_ylim()[1] * 1.18)
    axes.legend(frameon=False, ncols=3, loc="upper left", fontsize=9, columnspacing=1.2)
    return True


def _training(axes: Axes, rows: Rows) -> None:
    dress(axes, "Training rollouts", "accuracy, %")
    _over_steps(axes, rows, ACCURACY)
    if len(series(rows, TOKENS[0][0])[0]):
        right = axes.twinx()
        _over_steps(right, rows, TOKENS)
        right.legend(frameon=False, loc="upper right", fontsize=9)
        right.set_ylabel("mean tokens", color=TUNED)
        right.spines["top"].set_visible(False)
        right.spines["right"].set_visible(True)
        axes.yaxis.label.set_color(OTHER)


def _entropy(axes: Axes, rows: Rows) -> None:
    dress(axes, "Policy entropy", "nats per token")
    _over_steps(axes, rows, ENTROPY)


def _signals(axes: Axes, rows: Rows) -> None:
    dress(axes, "Signals", "% of questions; threshold: accuracy, %")
    if _over_steps(axes, rows, SIGNALS):
        axes.set_ylim(0, 118)
        axes.set_yticks(range(0, 101, 20))


def _pairs(
    axes: Axes, labels: Sequence[str], heights: Mapping[str, np.ndarray], errors: Any
) -> None:
    """Bars of base and tuned side by side; `errors` per policy [n], or [2, n] below and above."""
    for shift, name, color in ((-0.2, "base", BASE), (0.2, "tuned", TUNED)):
        axes.bar(
            np.arange(len(labels)) + shift,
            heights[name],
            width=0.38,
            color=color,
            label=name,
            yerr=errors.get(name),
            error_kw={"elinewidth": 1.2, "capsize": 3, "ecolor": "#333333"},
        )
    axes.set_xticks(np.arange(len(labels)), labels)
    top = max(float(values.max()) for values in heights.values())
    axes.set_ylim(0, top * 1.2 or 1)
    axes.legend(frameon=False, ncols=2, loc="upper right", fontsize=9)


def _levels(
    axes: Axes,
    tables: Mapping[str, SampleTable],
    levels: Sequence[int],
    per_question: Callable[[SampleTable], np.ndarray],
) -> None:
    """Means by level with 1.96 standard errors over the level's questions."""
    found = sorted(set(levels))
    heights, errors = {}, {}
    for name in ("base", "tuned"):
        level_of = np.array(levels)[tables[name].index.cpu().numpy()]
        groups = [per_question(tables[name])[level_of == level] for level in found]
        heights[name] = np.array([group.mean() for group in groups])
        errors[name] = np.array(
            [1.96 * group.std() / max(len(group), 1) ** 0.5 for group in groups]
        )
    _pairs(axes, [str(level) for level in found], heights, errors)
    axes.set_xlabel("level of the question")


def _subsets(axes: Axes, summary: Mapping[str, Any], figure: str, scale: float) -> None:
    subsets = [
        name for name in ("all", "easy", "hard") if summary["base"][name][figure] is not None
    ]
    heights, errors = {}, {}
    for policy in ("base", "tuned"):
        value, low, high = (
            np.array([summary[policy][subset][figure][part] * scale for subset in subsets])
            for part in ("value", "low", "high")
        )
        # A percentile interval need not hold the estimate; an error bar cannot be negative.
        heights[policy] = value
        errors[policy] = np.maximum([value - low, high - value], 0)
    _pairs(axes, subsets, heights, errors)
    axes.set_xlabel("held-out questions")


def _lengths(axes: Axes, tables: Mapping[str, SampleTable]) -> None:
    lengths = {name: tables[name].lengths.flatten().cpu().numpy() for name in ("base", "tuned")}
    # The longest hundredth would squeeze the rest; it is counted in the last bin.
    end = max(float(np.percentile(values, 99)) for values in lengths.values()) + 1
    bins = np.linspace(0, end, 41).tolist()
    for (name, values), color in zip(lengths.items(), (BASE, TUNED), strict=True):
        weights = np.full(len(values), 100 / len(values))
        axes.hist(
            np.minimum(values, end), bins, weights=weights, color=color, alpha=0.6, label=name
        )
        axes.axvline(
            values.mean(),
            color=color,
            linewidth=2,
            linestyle="--",
            label=f"mean {values.mean():.0f}",
        )
    axes.set_xlabel("tokens; the last bin holds all longer ones")
    axes.legend(framealpha=1, edgecolor="white", ncols=2, loc="upper right", fontsize=9)
