"""What the procedural sources share: levels, styles, and splits that are disjoint whatever the seeds."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

from ceeh.errors import ConfigError
from ceeh.runtime.rng import stable_hash

Split = Literal["train", "held_out"]
HELD_OUT_ONE_IN = 5


def split_of(text: str) -> Split:
    """The split of a question: a hash of its text alone puts one in five into `held_out`."""
    number = int.from_bytes(stable_hash(text), "big")
    return "held_out" if number % HELD_OUT_ONE_IN == 0 else "train"


def parse_split(split: str) -> Split:
    if split not in get_args(Split):
        raise ConfigError(f"split must be one of {', '.join(get_args(Split))}, got '{split}'")
    return split  # type: ignore[return-value]


def parse_levels(levels: str | int | Sequence[int], known: range) -> list[int]:
    """A range "1-6", one level, or a list of distinct levels, all in `known`."""
    wanted: list[Any]
    if isinstance(levels, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", levels, re.ASCII)
        wanted = list(range(int(match[1]), int(match[2] or match[1]) + 1)) if match else []
    else:
        wanted = [levels] if isinstance(levels, int) else list(levels)
    if not wanted or len(set(wanted)) < len(wanted) or any(level not in known for level in wanted):
        raise ConfigError(
            f"levels must be distinct levels from {known[0]} to {known[-1]}, such as '{known[0]}-"
            f"{known[-1]}' or [1, 2], got {levels!r}"
        )
    return wanted


def check_styles(styles: Mapping[Any, float], known: Collection[str]) -> None:
    """Raises ConfigError unless `styles` gives relative frequencies of some of `known`."""
    if not styles or not styles.keys() <= set(known) or min(styles.values()) <= 0:
        raise ConfigError(
            f"styles must give {', '.join(known)} relative frequencies above 0, got {dict(styles)}"
        )
