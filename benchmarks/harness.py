"""Shared by all benchmarks: alternate ours and the reference, take medians, print a table, write a file."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from ceeh.runtime.versions import provenance

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number of a benchmark, and what it should be: `limit` is a bound from below or above.

    `ours` and `reference` are the two medians where the measurement is a ratio, in `unit`.
    """

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    ours: float | None = None
    reference: float | None = None
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the bound holds; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def bound(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"


def by_turns(
    contestants: Mapping[str, Callable[[], object]], *, repeats: int, warmups: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call. One of each in turn, in alternating order, so that a slow minute of a
    shared machine falls on all of them."""
    for _ in range(warmups):
        for call in contestants.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats):
        order = list(contestants) if repeat % 2 == 0 else list(contestants)[::-1]
        for name in order:
            seconds[name].append(timed(contestants[name]))
    return seconds


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call, a GPU's work included."""
    synchronize()
    begin = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - begin


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of neighbors in time: what a change of the machine's speed disturbs least."""
    return median(one / other for one, other in zip(numerators, denominators, strict=True))


def machine() -> dict[str, str]:
    """What the measurements were measured on."""
    cpu = [line for line in _cpuinfo() if line.startswith("model name")]
    described = {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def report(
    benchmark: str,
    measurements: Sequence[Measurement],
    *,
    settings: Mapping[str, object],
    versions: Mapping[str, str] | None = None,
    details: Mapping[str, object] | None = None,
) -> None:
    """Prints the measurements as a table and writes `results/<benchmark>.json` with versions and machine.

    `settings` say what was measured, `versions` those of a reference in another environment,
    `details` are single repetitions and whatever else explains a measurement.
    """
    print(table(benchmark, measurements))
    RESULTS.mkdir(exist_ok=True)
    content = {
        "benchmark": benchmark,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": provenance() | dict(versions or {}),
        "settings": dict(settings),
        "measurements": [asdict(measurement) for measurement in measurements],
        "details": dict(details or {}),
    }
    (RESULTS / f"{benchmark}.json").write_text(json.dumps(content, indent=2) + "\n")


def table(benchmark: str, measurements: Sequence[Measurement]) -> str:
    """name, measurement, bound, whether it holds, and the two medians behind a ratio."""
    marks = {True: "reached", False: "MISSED", None: ""}
    rows = [(benchmark, "measurement", "bound", "", "ours", "reference")]
    for measurement in measurements:
        sides = [
            "" if side is None else f"{side:,.4g} {measurement.unit}".strip()
            for side in (measurement.ours, measurement.reference)
        ]
        value = f"{measurement.value:,.4g}" + (
            "" if measurement.ours is not None else f" {measurement.unit}"
        )
        rows.append(
            (measurement.name, value, measurement.bound, marks[measurement.reached], *sides)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
