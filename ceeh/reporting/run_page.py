"""The report of a run: report.html, report.png, and a table of base against tuned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ceeh.evaluation.samples import SampleTable
from ceeh.reporting import style
from ceeh.reporting.grid import Grid, cell
from ceeh.reporting.page import write_html

Rows = Sequence[Mapping[str, Any]]
Lines = Sequence[tuple[str, str, str, float]]

ACCURACY: Lines = (("rollout/accuracy", "accuracy", style.OTHER, 100.0),)
TOKENS: Lines = (("rollout/tokens_mean", "tokens", style.TUNED, 1.0),)
ENTROPY: Lines = (
    ("loss/entropy_easy", "easy", style.EASY, 1.0),
    ("loss/entropy_hard", "hard", style.HARD, 1.0),
)
SIGNALS: Lines = (
    ("signal/hard_fraction", "hard", style.HARD, 100.0),
    ("signal/accuracy_history_mean", "threshold", style.OTHER, 100.0),
    ("signal/optimal_length_coverage", "optimal length known", style.EASY, 100.0),
)
"""Lines of the training panels: metric, label, color, scale."""


def write_report(
    folder: Path,
    summary: Mapping[str, Any],
    title: str,
    *,
    rows: Rows,
    tables: Mapping[str, SampleTable],
    levels: Sequence[int] | None,
) -> Path:
    """Writes report.html and report.png into the run's `folder`; returns the page's path.

    `rows` are the lines of metrics.jsonl. `tables` hold the held-out samples of "base" and "tuned",
    `levels` the level of each question by index. A panel without data says so.
    """
    write_figure(folder / "report.png", rows, summary, tables, levels)
    return write_html(
        folder,
        title,
        [summary_grid(summary)],
        alt="Training and held-out results",
        settings=(folder / "config.yaml").read_text(),
    )


def summary_grid(summary: Mapping[str, Any]) -> Grid:
    """Base against tuned on all, easy and hard questions: at most 110 columns of text."""
    (pass_at,) = (name for name in summary["base"]["all"] if name.startswith("pass_at_"))
    rows = []
    for subset in ("all", "easy", "hard"):
        for policy in ("base", "tuned", "difference"):
            metrics, change = summary[policy][subset], policy == "difference"
            tokens = (
                cell(metrics["tokens_relative"], scale=100.0, signed=True, unit=" %")
                if change
                else cell(metrics["tokens"])
            )
            rows.append(
                [
                    subset,
                    "change" if change else policy,
                    cell(metrics["accuracy"], scale=100.0, signed=change),
                    tokens,
                    cell(metrics[pass_at], scale=100.0, signed=change),
                    cell(metrics["entropy"], digits=3, signed=change),
                ]
            )
    counts, seconds = summary["questions"], summary.get("train_seconds")
    title = (
        f"{counts['all']} held-out questions ({counts['easy']} easy, {counts['hard']} hard), "
        f"{summary['samples']} samples each, 95 % intervals"
    )
    return Grid(
        title=title if seconds is None else f"{title}; trained for {seconds / 60:.1f} min",
        header=[
            "",
            "",
            "accuracy %",
            "tokens",
            f"{pass_at.replace('_at_', '@')} %",
            "nats per token",
        ],
        rows=rows,
        labels=2,
    )


@style.plain_text
def write_figure(
    path: Path,
    rows: Rows,
    summary: Mapping[str, Any],
    tables: Mapping[str, SampleTable],
    levels: Sequence[int] | None,
) -> None:
    """Draws six panels into the PNG `path`; arguments as in `write_report`.

    Without levels the held-out panels show easy and hard questions and all.
    """
    figure = style.new_figure()
    axes = figure.subplots(2, 3)
    _training(axes[0, 0], rows)
    style.dress(axes[0, 1], "Policy entropy", "nats per token")
    _over_steps(axes[0, 1], rows, ENTROPY)
    style.dress(axes[0, 2], "Signals", "% of questions; threshold: accuracy, %")
    if _over_steps(axes[0, 2], rows, SIGNALS):
        _percent(axes[0, 2])
    for panel, metric, scale in ((axes[1, 0], "accuracy", 100.0), (axes[1, 1], "tokens", 1.0)):
        if levels is None:
            _subsets(panel, summary, metric, scale)
        else:
            _levels(panel, tables, levels, metric, scale)
    style.dress(axes[1, 0], "Held-out accuracy", "accuracy, %")
    style.dress(axes[1, 1], "Held-out response length", "mean tokens")
    _percent(axes[1, 0])
    lengths = {name: tables[name].lengths.flatten().numpy() for name in style.POLICIES}
    style.length_histogram(axes[1, 2], lengths, style.POLICIES, "Held-out response lengths")
    figure.savefig(path, format="png")


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rollout steps and values of a metric where it was measured; empty if it never was."""
    found = [(row["rollout_step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    return steps, values


def _line(axes: Axes, rows: Rows, name: str, label: str, color: str, scale: float) -> bool:
    """The metric itself, pale, and its running mean over about a tenth of the run."""
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
        style.missing(axes, [name for name, *_ in lines])
        return False
    axes.set_xlabel("rollout step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.18)  # room for the legend
    style.legend(axes, ncols=3, loc="upper left", columnspacing=1.2)
    return True


def _percent(axes: Axes) -> None:
    """0 to 100 %, and room for the legend."""
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))


def _training(axes: Axes, rows: Rows) -> None:
    style.dress(axes, "Training rollouts", "accuracy, %")
    _over_steps(axes, rows, ACCURACY)
    if len(series(rows, TOKENS[0][0])[0]):
        right = axes.twinx()
        _over_steps(right, rows, TOKENS)
        style.legend(right, loc="upper right")
        right.set_ylabel("mean tokens", color=style.TUNED)
        right.spines["top"].set_visible(False)
        right.spines["right"].set_visible(True)
        axes.yaxis.label.set_color(style.OTHER)


def _levels(
    axes: Axes,
    tables: Mapping[str, SampleTable],
    levels: Sequence[int],
    metric: str,
    scale: float,
) -> None:
    """Means by level with 1.96 standard errors over the level's questions."""
    found, heights = sorted(set(levels)), {}
    for name in style.POLICIES:
        table = tables[name]
        samples = table.correct if metric == "accuracy" else table.lengths
        values = scale * samples.double().mean(1).numpy()
        level_of = np.array(levels)[table.index.numpy()]
        groups = [values[level_of == level] for level in found]
        errors = [1.96 * group.std() / max(len(group), 1) ** 0.5 for group in groups]
        heights[name] = np.array([group.mean() for group in groups]), np.array(errors)
    style.grouped_bars(axes, [str(level) for level in found], heights, style.POLICIES)
    axes.set_xlabel("level of the question")


def _subsets(axes: Axes, summary: Mapping[str, Any], metric: str, scale: float) -> None:
    """Means on all, easy and hard questions with 95 % intervals."""
    subsets = [name for name in ("all", "easy", "hard") if summary["base"][name][metric]]
    heights = {
        policy: style.with_arms([summary[policy][subset][metric] for subset in subsets], scale)
        for policy in style.POLICIES
    }
    style.grouped_bars(axes, subsets, heights, style.POLICIES)
    axes.set_xlabel("held-out questions")
