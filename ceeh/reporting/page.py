"""report.html: one page that needs no other file, for a run, an evaluation or a comparison."""

import base64
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment

from ceeh.reporting.grid import Grid

TEMPLATE = Path(__file__).with_name("report_template.html")


def write_html(
    folder: Path,
    title: str,
    grids: Iterable[Grid],
    *,
    alt: str,
    settings: str,
    notes: Iterable[str] = (),
) -> Path:
    """Writes the page with `folder`'s report.png, which `alt` describes, inside; returns its path."""
    page = Environment(autoescape=True).from_string(TEMPLATE.read_text())
    image = base64.b64encode((folder / "report.png").read_bytes()).decode()
    report = folder / "report.html"
    report.write_text(
        page.render(title=title, alt=alt, image=image, grids=grids, notes=notes, settings=settings)
    )
    return report
