"""Tables of text, for a terminal, a page and a model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table: the first `labels` columns are names, the others metrics, `value [low, high]`."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    def text(self) -> str:
        """Aligned columns; a rule below the header, and above each group of rows that share a first cell."""
        shown = [self.header, *self.rows]
        widths = [max(len(row[column]) for row in shown) for column in range(len(self.header))]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        firsts = [row[0] for row in self.rows]
        grouped = len(set(firsts)) < len(firsts)
        lines, group = [], None
        for row in shown:
            if row is not self.header and (group is None or (grouped and row[0] != group)):
                lines.append(rule)
                group = row[0]
            elif row is not self.header and grouped:
                row = ["", *row[1:]]
            cells = [each.ljust(width) for each, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([self.title, *lines])

    def markdown(self) -> str:
        """A table in GitHub's Markdown, without the title."""
        rule = "|" + "---|" * len(self.header)
        lines = [f"| {' | '.join(row)} |" for row in (self.header, *self.rows)]
        return "\n".join([lines[0], rule, *lines[1:]])


def cell(
    metric: Mapping[str, float] | None,
    *,
    scale: float = 1.0,
    digits: int = 1,
    signed: bool = False,
    unit: str = "",
) -> str:
    """`value [low, high]`, or - if the metric is None."""
    if metric is None:
        return "-"
    sign = "+" if signed else ""
    value, low, high = (
        f"{metric[part] * scale:{sign}.{digits}f}" for part in ("value", "low", "high")
    )
    return f"{value}{unit} [{low}, {high}]"
