"""Panels: the plots of a page, each its own picture there; the first six together are report.png."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ceeh.reporting import style
from ceeh.run.atomic import atomic_write


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A plot. `unit` labels its vertical axis, `caption` explains it, `missing` names what it lacks."""

    title: str
    unit: str
    draw: Callable[[Axes], Any]
    caption: str = ""
    missing: Sequence[str] = ()

    def onto(self, axes: Axes) -> None:
        style.dress(axes, self.title, self.unit)
        if self.missing:
            style.missing(axes, self.missing)
        else:
            self.draw(axes)


@style.plain_text
def picture(panel: Panel) -> bytes:
    """The panel as a PNG, sharp in a column of 400 px on a dense screen."""
    figure = Figure(figsize=(5.0, 3.5), layout="constrained", dpi=170)
    panel.onto(figure.subplots())
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


@style.plain_text
def write_overview(path: Path, panels: Sequence[Panel]) -> None:
    """Six `panels` as one PNG; one without data says what is missing."""
    figure = style.new_figure()
    for axes, panel in zip(figure.subplots(2, 3).flat, panels, strict=True):
        panel.onto(axes)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
