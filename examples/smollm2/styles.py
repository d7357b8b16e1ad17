"""python examples/smollm2/styles.py EVALUATION [EVALUATION]: accuracy and tokens by level and style.

With two evaluations on the same questions, also a response of each to the same question, side by side.
"""

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

OPENINGS = {
    "direct": r"\\boxed",
    "short": r"\d+\*\d+ = ",
    "medium": r"An? [a-z]+ has ",
    "long": "We want the total",
}
Sample = Mapping[str, Any]


def style_of(response: str) -> str:
    """The style that a response begins in; `other` for none of them."""
    return next((name for name, start in OPENINGS.items() if re.match(start, response)), "other")


def read_samples(place: Path) -> list[Sample]:
    """The samples of an evaluation, or the logged rollouts of a run, which hold the level as metadata."""
    if place.suffix == ".parquet":
        rows = pq.read_table(place).to_pylist()
        named = {"question": "prompt", "tokens": "length"}
        return [
            {**row, **{ours: row[theirs] for ours, theirs in named.items()}}
            | {"level": str(json.loads(row["metadata"])["level"])}
            for row in rows
        ]
    inside = place / "samples.parquet"
    found = inside if inside.is_file() else place / "evaluation" / "samples.parquet"
    return pq.read_table(found).to_pylist()


def style_table(samples: Iterable[Sample]) -> str:
    """A Markdown table: per level and style the share of responses, accuracy and mean tokens."""
    cells: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        for style in ("all", style_of(sample["response"])):
            for level in ("all", sample["level"]):
                cells[style][level].append(sample)
    levels = ["all", *sorted(level for level in cells["all"] if level != "all")]
    order = [style for style in ("all", *OPENINGS, "other") if style in cells]
    lines = [f"| style | {' | '.join(levels)} |", "|---" * (len(levels) + 1) + "|"]
    for style in order:
        shown = [cell(cells[style][level], len(cells["all"][level])) for level in levels]
        lines.append(f"| {style} | {' | '.join(shown)} |")
    return "\n".join(lines)


def cell(samples: Sequence[Sample], of: int) -> str:
    """share %: accuracy % / mean tokens"""
    if not samples:
        return "-"
    accuracy = 100 * sum(sample["correct"] for sample in samples) / len(samples)
    tokens = sum(sample["tokens"] for sample in samples) / len(samples)
    return f"{100 * len(samples) / of:.0f} %: {accuracy:.0f} / {tokens:.0f}"


def pairs(one: Sequence[Sample], other: Sequence[Sample], count: int, seed: int) -> str:
    """`count` questions that both have, drawn by `seed`, each with one response of either."""
    sides = [{sample["uid"]: sample for sample in reversed(side)} for side in (one, other)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    lines = []
    for uid in random.Random(seed).sample(shared, min(count, len(shared))):
        lines.append(f"\n{sides[0][uid]['question']}")
        for side in sides:
            sample = side[uid]
            verdict = "right" if sample["correct"] else "wrong"
            lines.append(f"  [{sample['tokens']} tokens, {verdict}] {sample['response']!r}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "places", type=Path, nargs="+", help="evaluation or run folders, or rollouts"
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    read = [read_samples(place) for place in given.places]
    for place, samples in zip(given.places, read, strict=True):
        print(f"\n{place}: share of the responses: accuracy % / mean tokens, by level\n")
        print(style_table(samples))
    if len(read) == 2:
        print(pairs(read[0], read[1], given.pairs, given.seed))


if __name__ == "__main__":
    main()
