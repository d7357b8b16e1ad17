"""report.html: one page that needs no other file, for a run, an evaluation or a comparison."""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment

from ceeh.reporting.examples import OUTCOMES, SHADES, Section
from ceeh.reporting.grid import Grid
from ceeh.reporting.panels import Panel, picture
from ceeh.run.atomic import atomic_write_text

TEMPLATE = Path(__file__).with_name("report_template.html")


def write_html(
    folder: Path,
    title: str,
    grids: Iterable[Grid],
    *,
    figures: Sequence[tuple[str, Sequence[Panel]]],
    examples: Sequence[Section],
    settings: str,
    notes: Iterable[str] = (),
) -> Path:
    """Writes report.html into `folder`; returns its path.

    `figures` are panels under a heading each. Those without data are left out, and named below the others.
    """
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text()
    )
    groups = []
    for heading, panels in figures:
        drawn = [
            (panel, base64.b64encode(picture(panel)).decode())
            for panel in panels
            if not panel.missing
        ]
        left_out = [
            f"{panel.title} ({', '.join(panel.missing)})" for panel in panels if panel.missing
        ]
        groups.append((heading, drawn, left_out))
    report = folder / "report.html"
    atomic_write_text(
        report,
        page.render(
            title=title,
            grids=grids,
            groups=groups,
            sections=examples,
            filters=filters(examples),
            shades=[0, *SHADES],
            notes=notes,
            settings=settings,
        ),
    )
    return report


def filters(sections: Sequence[Section]) -> dict[str, list[str]]:
    """What the examples can be filtered by: heading -> words that occur in them."""
    kinds = dict.fromkeys(kind for each in sections for one in each.examples for kind in one.kinds)
    levels = [kind for kind in kinds if kind.startswith("level ")]
    found = {
        "questions": [kind for kind in ("easy", "hard") if kind in kinds],
        "level": sorted(levels, key=lambda level: (len(level), level)),
        "result": [
            outcome for outcome in (*OUTCOMES.values(), "right", "wrong") if outcome in kinds
        ],
    }
    return {heading: words for heading, words in found.items() if len(words) > 1}
