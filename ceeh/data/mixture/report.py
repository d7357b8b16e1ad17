"""What a mixture drew, and what it left out and why: a line to read, two files to keep."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ceeh.data.mixture.decontamination import Overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A training question left out because it repeats a benchmark's."""

    part: str
    uid: str
    text: str
    overlap: Overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """Questions of one part: `read` = `duplicates` + `dropped` + `clean`, of which `drawn` are used."""

    name: str
    source: dict[str, Any]
    read: int
    duplicates: int
    dropped: tuple[Dropped, ...]
    clean: int
    drawn: int

    @property
    def contaminated(self) -> dict[str, int]:
        """Questions dropped per benchmark, the most first."""
        return dict(Counter(drop.overlap.benchmark for drop in self.dropped).most_common())

    def __str__(self) -> str:
        found = ", ".join(f"{name} {count:,}" for name, count in self.contaminated.items())
        return (
            f"{self.name} {self.drawn:,} of {self.read:,} ({self.duplicates:,} duplicates,"
            f" {len(self.dropped):,} contaminated{': ' if found else ''}{found})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureReport:
    """The parts, and the rule; without benchmarks nothing was compared, which the line says."""

    seed: int
    parts: tuple[PartReport, ...]
    benchmarks: dict[str, int]
    ngram: int
    coverage: float

    def __str__(self) -> str:
        parts = "; ".join(str(part) for part in self.parts)
        if not self.benchmarks:
            return f"mixture: {parts}; not compared with any benchmark"
        rule = f"{self.ngram}-grams over {self.coverage:.0%} of a question"
        return f"mixture: {parts}; against {', '.join(self.benchmarks)} by {rule}"

    def write(self, folder: Path) -> None:
        """`mixture.json`, the counts, and `decontamination.jsonl`, a line per question dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        summary = asdict(self)
        for part, described in zip(self.parts, summary["parts"], strict=True):
            described["contaminated"] = part.contaminated
            del described["dropped"]
        (folder / "mixture.json").write_text(json.dumps(summary, indent=2, default=str) + "\n")
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows())
        (folder / "decontamination.jsonl").write_text("".join(lines), encoding="utf-8")

    def _rows(self) -> Iterator[dict[str, Any]]:
        for part in self.parts:
            for drop in part.dropped:
                row = asdict(drop)
                yield row | row.pop("overlap")
