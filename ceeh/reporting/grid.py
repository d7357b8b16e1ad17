"""Tables of text, for a terminal, a page and a model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 100
"""Columns of a terminal that a table fits into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table: the first `labels` columns are names, the others metrics, `value [low, high]`."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    @property
    def grouped(self) -> bool:
        """Whether rows share their first cell, as the policies on one level do."""
        firsts = [row[0] for row in self.rows]
        return len(set(firsts)) < len(firsts)

    def text(self, width: int = WIDTH) -> str:
        """Aligned columns; those that do not fit into `width` follow below, with the names again.

        A rule stands below the header, and above each group of rows, with the cell that they share.
        """
        start = 1 if self.grouped else 0
        shown = [self.header, *self.rows]
        widths = [max(len(row[column]) for row in shown) for column in range(len(self.header))]
        names = range(start, self.labels)
        blocks, room = [[*names]], width
        for column in range(self.labels, len(self.header)):
            used = sum(widths[each] + 2 for each in blocks[-1])
            if used + widths[column] > room and len(blocks[-1]) > len(names):
                blocks.append([*names])
            blocks[-1].append(column)
        return f"{self.title}\n" + "\n\n".join(self._block(each, widths) for each in blocks)

    def _block(self, columns: Sequence[int], widths: Sequence[int]) -> str:
        full = sum(widths[column] + 2 for column in columns) - 2

        def line(row: Sequence[str]) -> str:
            return "  ".join(row[column].ljust(widths[column]) for column in columns).rstrip()

        lines, group = [line(self.header)], None
        for row in self.rows:
            if group is None or (self.grouped and row[0] != group):
                group = row[0]
                lines.append((f"-- {group} " if self.grouped else "").ljust(full, "-"))
            lines.append(line(row))
        return "\n".join(lines)

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
    """`value [low, high]`; the value alone where a bootstrap finds no width; - if the metric is None."""
    if metric is None:
        return "-"
    sign = "+" if signed else ""
    value, low, high = (
        f"{metric[part] * scale:{sign}.{digits}f}" for part in ("value", "low", "high")
    )
    return f"{value}{unit}" + ("" if metric["low"] == metric["high"] else f" [{low}, {high}]")


def value_cells(metrics: Mapping[str, Any], pass_at: str) -> list[str]:
    """Accuracy in %, tokens, pass@k in %, and entropy in nats."""
    return [
        cell(metrics["accuracy"], scale=100.0),
        cell(metrics["tokens"]),
        cell(metrics[pass_at], scale=100.0),
        cell(metrics["entropy"], digits=3),
    ]


def change_cells(change: Mapping[str, Any], pass_at: str) -> list[str]:
    """The same of a difference: accuracy and pass@k in points, tokens relative in %."""
    return [
        cell(change["accuracy"], scale=100.0, signed=True),
        cell(change["tokens_relative"], scale=100.0, signed=True, unit=" %"),
        cell(change[pass_at], scale=100.0, signed=True),
        cell(change["entropy"], digits=3, signed=True),
    ]
