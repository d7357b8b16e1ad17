"""The plots of a run: held-out questions before and after, and the curves of its training."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ceeh.evaluation.samples import SampleTable
from ceeh.reporting import style
from ceeh.reporting.panels import Panel

Rows = Sequence[Mapping[str, Any]]
Line = tuple[str, str, str, float]
"""Metric, label, color, scale."""

ALL, EASY, HARD = style.BASE, style.EASY, style.HARD
BINS = ("0_20", "20_40", "40_60", "60_80", "80_100")
SHADES = ("#d1495b", "#e8927c", "#f0d9a8", "#9ccfb4", "#2a9d6f")

CURVES: Sequence[tuple[str, str, str, Sequence[Line]]] = (
    (
        "Accuracy of rollouts",
        "accuracy, %",
        "Questions are easy or hard by their history before the step. Hard ones are those the policy fails "
        "more often than on average, so their curve stays low by definition. With `rollouts.probe`, also the "
        "questions that are set apart.",
        (
            ("rollout/accuracy", "all", ALL, 100.0),
            ("rollout/accuracy_easy", "easy", EASY, 100.0),
            ("rollout/accuracy_hard", "hard", HARD, 100.0),
            ("probe/accuracy", "not trained on", style.OTHER, 100.0),
        ),
    ),
    (
        "Length of rollouts",
        "mean tokens",
        "Response tokens, on the same questions.",
        (
            ("rollout/tokens_mean", "all", ALL, 1.0),
            ("rollout/tokens_easy", "easy", EASY, 1.0),
            ("rollout/tokens_hard", "hard", HARD, 1.0),
            ("probe/tokens_mean", "not trained on", style.OTHER, 1.0),
        ),
    ),
    (
        "Policy entropy",
        "nats per token",
        "How undecided the policy is about the next token, mean over the response tokens of easy and of hard "
        "questions; the step line prints it as entropy easy/hard. At 0 nothing is explored any more.",
        (
            ("loss/entropy_easy", "easy", EASY, 1.0),
            ("loss/entropy_hard", "hard", HARD, 1.0),
        ),
    ),
    (
        "Reward",
        "per response",
        "The shaped reward, mean over responses, and what length shaping added to it.",
        (
            ("reward/mean", "reward", style.TUNED, 1.0),
            ("reward/shaping", "of it shaping", style.OTHER, 1.0),
        ),
    ),
    (
        "Length gate",
        "open, % of responses",
        "Responses to questions solved at least as often as before: there the length penalty acts.",
        (("reward/gate_open", "gate open", style.OTHER, 100.0),),
    ),
    (
        "Shortest correct response",
        "mean tokens",
        "L_x, the length that the penalty compares with, over the questions where it is known, beside the "
        "correct responses of the step.",
        (
            ("signal/optimal_length_mean", "L_x", EASY, 1.0),
            ("rollout/tokens_correct", "correct responses", style.TUNED, 1.0),
        ),
    ),
    (
        "Difficulty signals",
        "% of questions",
        "Questions that are hard, their accuracy history being below the threshold, and those with an L_x.",
        (
            ("signal/hard_fraction", "hard", HARD, 100.0),
            ("signal/hard_threshold", "threshold", style.OTHER, 100.0),
            ("signal/optimal_length_coverage", "L_x known", EASY, 100.0),
        ),
    ),
    (
        "Clipped tokens",
        "% of tokens",
        "Tokens whose ratio is beyond a bound that matters for the sign of their advantage; none where a "
        "rollout step is one optimizer step.",
        (
            ("loss/clipped_high_fraction", "above", style.TUNED, 100.0),
            ("loss/clipped_low_fraction", "below", style.OTHER, 100.0),
            ("loss/dual_clipped_fraction", "dual", HARD, 100.0),
        ),
    ),
    (
        "KL from the start",
        "nats per token",
        "How far the policy is from the model that training started with.",
        (("loss/kl", "KL", style.TUNED, 1.0),),
    ),
    (
        "Gradient norm",
        "before clipping",
        "Norm of the gradient of all trained weights.",
        (("optimizer/grad_norm", "norm", style.TUNED, 1.0),),
    ),
)
FRACTIONS = ("Accuracy of rollouts", "Length gate", "Difficulty signals")
"""Curves shown from 0 to 100 %."""


def training_panels(rows: Rows) -> list[Panel]:
    """The curves of `rows`, the lines of metrics.jsonl: `CURVES`, then the difficulty histogram."""
    panels = [
        Panel(
            title=title,
            unit=unit,
            caption=caption,
            draw=partial(_curves, rows=rows, lines=lines, fractions=title in FRACTIONS),
            missing=() if any(len(series(rows, name)[0]) for name, *_ in lines) else _names(lines),
        )
        for title, unit, caption, lines in CURVES
    ]
    names = [f"signal/accuracy_history_{part}" for part in BINS]
    return [
        *panels,
        Panel(
            title="Difficulty of the questions",
            unit="% of questions seen",
            caption="Questions by accuracy history: how often the policy solved them lately.",
            draw=partial(_shares, rows=rows, names=names),
            missing=() if len(series(rows, names[0])[0]) else names,
        ),
    ]


def held_out_panels(
    summary: Mapping[str, Any], tables: Mapping[str, SampleTable], levels: Sequence[int] | None
) -> list[Panel]:
    """Base against tuned, by level; without levels on easy and hard questions and all."""

    def bars(axes: Axes, metric: str, scale: float) -> None:
        if levels is None:
            _subsets(axes, summary, metric, scale)
        else:
            _levels(axes, tables, levels, metric, scale)
        if metric == "accuracy":
            percent(axes)

    lengths = {name: tables[name].lengths.flatten().numpy() for name in style.POLICIES}
    return [
        Panel(
            title="Held-out accuracy",
            unit="accuracy, %",
            draw=partial(bars, metric="accuracy", scale=100.0),
            caption="Questions that were never trained on; bars end in 95 % intervals.",
        ),
        Panel(
            title="Held-out response length",
            unit="mean tokens",
            draw=partial(bars, metric="tokens", scale=1.0),
            caption="Tokens per response to the same questions.",
        ),
        Panel(
            title="Held-out response lengths",
            unit="share of responses, %",
            draw=lambda axes: style.length_histogram(axes, lengths, style.POLICIES),
            caption="All responses by length.",
        ),
    ]


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rollout steps and values of a metric where it was measured; empty if it never was."""
    found = [(row["rollout_step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    return steps, values


def _names(lines: Sequence[Line]) -> list[str]:
    return [name for name, *_ in lines]


def _curves(axes: Axes, rows: Rows, lines: Sequence[Line], fractions: bool) -> None:
    """Each metric itself, pale, and its running mean over about a tenth of the run."""
    lowest = 0.0
    for name, label, color, scale in lines:
        steps, values = series(rows, name)
        if not len(steps):
            continue
        axes.plot(steps, values * scale, color=color, alpha=0.3, linewidth=1)
        axes.plot(steps, style.smooth(values) * scale, color=color, linewidth=2.2, label=label)
        lowest = min(lowest, float(values.min()) * scale)
    if lowest == 0:
        axes.set_ylim(bottom=0)
    _steps(axes)
    if fractions:
        percent(axes)
    elif len(lines) > 1:
        low, high = axes.get_ylim()
        axes.set_ylim(top=high + 0.18 * (high - low))  # room for the legend
    if len(lines) > 1:
        style.legend(axes, ncols=3, loc="upper left", columnspacing=1.2)


def _shares(axes: Axes, rows: Rows, names: Sequence[str]) -> None:
    """Stacked shares of the questions, hardest at the bottom."""
    steps, shares = series(rows, names[0])[0], [series(rows, name)[1] for name in names]
    labels = [f"{part.replace('_', '-')} %" for part in BINS]
    axes.stackplot(steps, 100 * np.stack(shares), labels=labels, colors=SHADES, linewidth=0)
    percent(axes)
    _steps(axes)
    style.legend(
        axes, ncols=5, loc="upper left", columnspacing=0.8, handlelength=0.8, handletextpad=0.3
    )


def _steps(axes: Axes) -> None:
    axes.set_xlabel("rollout step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)


def percent(axes: Axes) -> None:
    """0 to 100 %, and room for the legend."""
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))


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
