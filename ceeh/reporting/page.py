"""report.html: one page that needs no other file, for a run, an evaluation or a comparison."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path

from ceeh.reporting.grid import Grid

CAUTION = (
    "Training on length can make a chain of thought less monitorable: an overseer may need what the "
    'model leaves out (<a href="https://arxiv.org/abs/2607.09786">arXiv 2607.09786</a>). Do not take '
    "the shorter text for all of the model's reasons."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 1200px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem 1rem; text-align: right } th { border-bottom: 2px solid #222 }
.label { text-align: left } td small { color: #666 } h2 { font-size: 1.1rem; margin-top: 2rem }
img { width: 100% } pre { background: #f5f5f5; padding: 1rem; overflow: auto }
.caution { border-left: 4px solid #d1495b; padding: .2rem 1rem; background: #fcf1f2 }
"""


def write_html(
    folder: Path,
    title: str,
    grids: Iterable[Grid],
    *,
    alt: str,
    notes: Iterable[str] = (),
    settings: str = "",
) -> Path:
    """Writes the page with `folder`'s report.png, which `alt` describes, inside; returns its path."""
    image = base64.b64encode((folder / "report.png").read_bytes()).decode()
    folded = f"<details><summary>Settings</summary><pre>{html.escape(settings)}</pre></details>"
    report = folder / "report.html"
    report.write_text(
        "\n".join(
            [
                '<!doctype html><html lang="en"><head><meta charset="utf-8">',
                f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
                f"<h1>{html.escape(title)}</h1>",
                f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{image}">',
                *(grid.html() for grid in grids),
                *(f"<p>Note: {html.escape(note)}</p>" for note in notes),
                f'<p class="caution">{CAUTION}</p>',
                folded if settings else "",
                "</body></html>",
            ]
        )
    )
    return report
