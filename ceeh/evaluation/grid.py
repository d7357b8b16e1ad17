"""Tables of text, for a terminal and for a page."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table: the first `labels` columns are words, the others figures, `value [low, high]`."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    def text(self) -> str:
        """Columns aligned, a rule under the header and where the first column changes."""
        shown = [self.header, *self.rows]
        widths = [max(len(row[column]) for row in shown) for column in range(len(self.header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in shown
        ]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([self.title, lines[0], rule, *lines[1:]])

    def html(self) -> str:
        """A heading and a table, every cell escaped."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.header)
        body = []
        for row in self.rows:
            cells = []
            for number, cell in enumerate(row):
                value, bracket, rest = html.escape(cell).partition(" [")
                small = f" <small>[{rest}</small>" if bracket else ""
                kind = ' class="label"' if number < self.labels else ""
                cells.append(f"<td{kind}>{value}{small}</td>")
            body.append(f"<tr>{''.join(cells)}</tr>")
        return (
            f"<h2>{html.escape(self.title)}</h2>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )


def cell(
    figure: Mapping[str, float] | None,
    *,
    scale: float = 1.0,
    digits: int = 1,
    signed: bool = False,
    unit: str = "",
) -> str:
    """`value [low, high]`, or - where there is no figure."""
    if figure is None:
        return "-"
    sign = "+" if signed else ""
    value, low, high = (
        f"{figure[part] * scale:{sign}.{digits}f}" for part in ("value", "low", "high")
    )
    return f"{value}{unit} [{low}, {high}]"
