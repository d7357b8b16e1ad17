"""The report of a study: tables, report.html, report.md and report.png.

`record` is the study's results.json (`ceeh.study.record`).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ceeh.config.study import UNTRAINED
from ceeh.reporting import style
from ceeh.reporting.evaluation_page import at, sizes_of
from ceeh.reporting.grid import Grid, change_cells, value_cells
from ceeh.reporting.page import write_html
from ceeh.reporting.panels import Panel, write_overview

Record = Mapping[str, Any]
Looks = Mapping[str, Mapping[str, Any]]
"""Arm -> color, line style and marker."""

LINES, MARKERS = ("-", "--", ":"), ("o", "s", "^")
PANEL_CHARACTERS = 90
"""Characters of a legend's size that fit under a panel."""
EXPLAINED = (
    "A value is the mean over an arm's training seeds. Its 95 % interval draws questions and seeds with "
    "replacement; with one seed it covers the questions alone, and with few it is too narrow where seeds "
    "differ much: with three that are the largest source of noise, it covers 80 %. Changes are paired by "
    "question and by training seed.",
    "Hard are the questions that the untrained model solves less often than on average.",
)


def study_grids(record: Record) -> list[Grid]:
    """Of each sampling setting: the arms, their changes against the baseline, pass@k, who beats whom."""
    grids = []
    for setting in record["sampling"].values():
        if setting["subsets"]:
            grids += [
                arms_grid(record, setting),
                changes_grid(record, setting),
                pass_grid(record, setting),
                *(wins_grid(record, setting, metric) for metric in setting["wins"]),
            ]
    return [grid for grid in grids if grid.rows]


def arms_grid(record: Record, setting: Mapping[str, Any]) -> Grid:
    largest = largest_pass(setting)
    counts = ", ".join(f"{each['questions']} {name}" for name, each in setting["subsets"].items())
    return Grid(
        title=f"{', '.join(record['benchmarks'])}, {setting['title']}: {counts} questions, "
        f"{setting['samples']} samples each, 95 % intervals",
        header=[
            *("questions", "arm", "seeds", "accuracy %", "tokens", f"{at(largest)} %"),
            "entropy, nats",
        ],
        rows=[
            [subset, arm, seeds_of(record, arm), *value_cells(metrics, largest)]
            for subset, part in setting["subsets"].items()
            for arm, metrics in in_order(record, part["arms"]).items()
        ],
        labels=2,
    )


def changes_grid(record: Record, setting: Mapping[str, Any]) -> Grid:
    largest = largest_pass(setting)
    return Grid(
        title=f"{setting['title']}: change against {record['baseline']}, paired, 95 % intervals",
        header=[
            *("questions", "arm", "accuracy, points", "tokens", f"{at(largest)}, points"),
            "entropy, nats",
        ],
        rows=[
            [subset, arm, *change_cells(change, largest)]
            for subset, part in setting["subsets"].items()
            for arm, change in in_order(record, part["changes"]).items()
        ],
        labels=2,
    )


def pass_grid(record: Record, setting: Mapping[str, Any]) -> Grid:
    """pass@k in percent, without intervals, which results.json has."""
    arms = next(iter(setting["subsets"].values()))["arms"]
    sizes = sorted(sizes_of(next(iter(arms.values())), "pass_at_"))
    return Grid(
        title=f"{setting['title']}: pass@k %",
        header=["questions", "arm", *(f"k = {k}" for k in sizes)],
        rows=[
            [subset, arm, *(f"{100 * metrics[f'pass_at_{k}']['value']:.1f}" for k in sizes)]
            for subset, part in setting["subsets"].items()
            for arm, metrics in in_order(record, part["arms"]).items()
        ],
        labels=2,
    )


def wins_grid(record: Record, setting: Mapping[str, Any], metric: str) -> Grid:
    """The share of bootstrap draws in which the arm of the row is better than that of the column."""
    shares = in_order(record, setting["wins"][metric])
    better = "more accurate" if metric == "accuracy" else "shorter"
    return Grid(
        title=f"{setting['title']}: share of draws, %, in which the row's arm is {better} than the column's",
        header=["arm", *shares],
        rows=[
            [arm, *(f"{100 * of_arm[other]:.0f}" if other in of_arm else "-" for other in shares)]
            for arm, of_arm in shares.items()
            if len(shares) > 1
        ],
    )


def write_study_page(folder: Path, record: Record, *, settings: str) -> Path:
    """Writes report.html, report.md and report.png into `folder`; returns the page's path.

    A panel without data says what is missing, and so do the notes.
    """
    panels = study_panels(record)
    write_overview(folder / "report.png", panels)
    grids = study_grids(record)
    notes = [*(f"missing: {each}" for each in record["missing"]), *EXPLAINED]
    title = f"{record['name']}: {len(record['arms'])} arms against {record['baseline']}"
    parts = [f"# {title}", "![Accuracy, length, pass@k and entropy](report.png)"]
    parts += [f"## {grid.title}\n\n{grid.markdown()}" for grid in grids]
    parts += [f"Note: {note}" for note in notes]
    parts.append(f"## Settings\n\n```text\n{settings}\n```")
    (folder / "report.md").write_text("\n\n".join(parts) + "\n")
    return write_html(
        folder,
        title,
        grids,
        figures=[("Figures", panels)],
        examples=(),
        notes=notes,
        settings=settings,
    )


def largest_pass(setting: Mapping[str, Any]) -> str:
    return f"pass_at_{setting['samples']}"


def seeds_of(record: Record, arm: str) -> str:
    return "-" if arm == UNTRAINED else ", ".join(map(str, record["arms"][arm]))


def in_order(record: Record, arms: Mapping[str, Any]) -> dict[str, Any]:
    """The untrained model first, then the baseline, then the others as the study lists them."""
    order = dict.fromkeys((UNTRAINED, record["baseline"], *record["arms"]))
    return {arm: arms[arm] for arm in order if arm in arms}


def study_panels(record: Record) -> list[Panel]:
    """Six panels; those of sampling settings show the first two."""
    looks = looks_of(record)
    (first, one), (second, two) = [*record["sampling"].items(), ("", None), ("", None)][:2]
    curves = record["entropy"]
    return [
        _pareto_panel(first, one, record["baseline"], looks),
        _pareto_panel(second, two, record["baseline"], looks),
        Panel(
            title="Entropy of hard questions in training",
            unit="nats per token",
            draw=lambda axes: _entropy(axes, curves, looks),
            caption="The mean over seeds; the band is from the lowest to the highest seed.",
            missing=() if curves else ("loss/entropy_hard of a finished run",),
        ),
        _pass_panel(first, one, "all", looks),
        _pass_panel(first, one, "hard", looks),
        _pass_panel(second, two, "all", looks),
    ]


def looks_of(record: Record) -> Looks:
    untrained = {"color": style.BASE, "linestyle": LINES[0], "marker": MARKERS[0]}
    others = [color for color in style.PALETTE if color != style.BASE]
    return {UNTRAINED: untrained} | {
        arm: {"color": color, "linestyle": line, "marker": marker}
        for arm, ((line, marker), color) in zip(
            dict.fromkeys((record["baseline"], *record["arms"])),
            cycle(product(zip(LINES, MARKERS, strict=True), others)),
            strict=False,
        )
    }


def legend_below(axes: Axes) -> None:
    """All arms, which would cover the curves inside, in as many columns as fit under a panel."""
    longest = max((len(label) for label in axes.get_legend_handles_labels()[1]), default=0)
    columns = max(1, min(4, PANEL_CHARACTERS // (longest + 7)))  # 7: the line or marker, and a gap
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "ncols": columns}
    style.legend(axes, fontsize=7, **below)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The arms that no other arm beats or equals on both tokens and accuracy, from short to long.

    `points` are (tokens, accuracy) by arm; of equal points the first counts.
    """
    found: list[str] = []
    for arm in sorted(points, key=lambda arm: (points[arm][0], -points[arm][1])):
        if not found or points[arm][1] > points[found[-1]][1]:
            found.append(arm)
    return found


def _arms(setting: Mapping[str, Any] | None, subset: str) -> Mapping[str, Any]:
    return setting["subsets"].get(subset, {}).get("arms", {}) if setting else {}


def _pareto_panel(
    name: str, setting: Mapping[str, Any] | None, baseline: str, looks: Looks
) -> Panel:
    arms = _arms(setting, "all")
    return Panel(
        title=titled("Accuracy against length", name),
        unit="accuracy, %",
        draw=lambda axes: _pareto(axes, setting or {}, looks),
        caption="A grey line joins the arms no other beats on both. Bars are the paired intervals of "
        f"the change from {baseline}, around the arm's own point: those of the values are nearly all of the "
        "questions' difficulty, which the arms share.",
        missing=() if arms else ("evaluated runs with this sampling",),
    )


def titled(title: str, name: str) -> str:
    return f"{title}: {name}" if name else title


def _pareto(axes: Axes, setting: Mapping[str, Any], looks: Looks) -> None:
    arms = _arms(setting, "all")
    points = {
        arm: (metrics["tokens"]["value"], 100 * metrics["accuracy"]["value"])
        for arm, metrics in arms.items()
    }
    best = [points[arm] for arm in front(points)]
    ring = {"linewidth": 4, "marker": "o", "markersize": 17, "zorder": 1}
    axes.plot(*zip(*best, strict=True), color="#dddddd", **ring)
    for arm, metrics in arms.items():
        change = setting["subsets"]["all"]["changes"].get(arm)
        shown = {
            metric: around(metrics[metric], change, metric) for metric in ("tokens", "accuracy")
        }
        look = looks[arm]
        style.policy_point(axes, shown, look["color"], marker=look["marker"], label=arm)
    axes.set_xlabel(f"mean tokens; {setting['title']}")
    axes.margins(0.12)
    legend_below(axes)


def around(
    metric: Mapping[str, float], change: Mapping[str, Any] | None, name: str
) -> dict[str, float]:
    """The metric with the interval of its change, moved so that the change is the metric itself."""
    value = metric["value"]
    if change is None:
        return {"value": value, "low": value, "high": value}
    moved = value - change[name]["value"]
    return {"value": value} | {end: moved + change[name][end] for end in ("low", "high")}


def _pass_panel(name: str, setting: Mapping[str, Any] | None, subset: str, looks: Looks) -> Panel:
    return Panel(
        title=titled(f"pass@k, {subset} questions", name),
        unit="questions solved, %",
        draw=lambda axes: _pass_at_k(axes, setting or {}, subset, looks),
        caption="Questions that at least one of k responses solves.",
        missing=() if _arms(setting, subset) else (f"{subset} questions with this sampling",),
    )


def _pass_at_k(axes: Axes, setting: Mapping[str, Any], subset: str, looks: Looks) -> None:
    for arm, metrics in _arms(setting, subset).items():
        sizes = sorted(sizes_of(metrics, "pass_at_"))
        values = [100 * metrics[f"pass_at_{k}"]["value"] for k in sizes]
        axes.plot(sizes, values, linewidth=2, markersize=4, label=arm, **looks[arm])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel(f"k; {setting['title']}")
    legend_below(axes)


def _entropy(axes: Axes, curves: Mapping[str, Mapping[str, Sequence[float]]], looks: Looks) -> None:
    for arm, curve in curves.items():
        mean, low, high = (style.smooth(curve[part]) for part in ("mean", "low", "high"))
        look = {key: looks[arm][key] for key in ("color", "linestyle")}
        axes.plot(curve["rollout_step"], mean, linewidth=2, label=arm, **look)
        axes.fill_between(
            curve["rollout_step"], low, high, color=look["color"], alpha=0.1, linewidth=0
        )
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rollout step")
    legend_below(axes)
