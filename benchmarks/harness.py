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

RESULTS = Path(__file__).with_name("results")
BASELINE: dict[str, dict[str, dict[str, float]]] = json.loads(
    Path(__file__).with_name("baseline.json").read_text()
)
"""Benchmark -> measurement -> {"at_least": x} or {"at_most": x}: what must not get worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number of a benchmark; `ours` and `reference` are the two sides of a ratio, in `unit`."""

    name: str
    value: float
    ours: float | None = None
    reference: float | None = None
    unit: str = ""


def share(
    name: str, ours: Sequence[float], reference: Sequence[float], unit: str = "s"
) -> Measurement:
    """ours / reference, from repetitions of both in turn."""
    return Measurement(
        name=name,
        value=median_ratio(ours, reference),
        ours=median(ours),
        reference=median(reference),
        unit=unit,
    )


def speedup(name: str, ours: Sequence[float], reference: Sequence[float]) -> Measurement:
    """reference / ours, in seconds: how many times as long the reference takes."""
    return Measurement(
        name=name,
        value=median_ratio(reference, ours),
        ours=median(ours),
        reference=median(reference),
        unit="s",
    )


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of neighbors in time: what a change of the machine's speed disturbs least."""
    return median(one / other for one, other in zip(numerators, denominators, strict=True))


def in_turn(
    contestants: Mapping[str, Callable[[], object]], *, repeats: int, warmups: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call. One of each in turn, in alternating order, so that a slow minute of a
    shared machine falls on all of them."""
    for _ in range(warmups):
        for call in contestants.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats):
        for name in list(contestants)[:: 1 if repeat % 2 == 0 else -1]:
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


def machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    described = {
        "cpu": models[0] if models else platform.processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


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


def keeps(bound: Mapping[str, float], value: float) -> bool:
    return bound.get("at_least", value) <= value <= bound.get("at_most", value)


def words(bound: Mapping[str, float]) -> str:
    return ", ".join(f"{kind.replace('_', ' ')} {limit:g}" for kind, limit in bound.items())


def table(benchmark: str, measurements: Sequence[Measurement]) -> str:
    """Name, value, the bound of the baseline, whether it holds, and the two sides of a ratio."""
    rows: list[tuple[str, ...]] = [(benchmark, "measured", "baseline", "", "ours", "reference")]
    for each in measurements:
        bound = BASELINE.get(benchmark, {}).get(each.name, {})
        kept = ("kept" if keeps(bound, each.value) else "WORSE") if bound else ""
        if each.ours is None or each.reference is None:
            cells = (f"{each.value:,.4g} {each.unit}", words(bound), kept, "", "")
        else:
            sides = (f"{side:,.4g} {each.unit}" for side in (each.ours, each.reference))
            cells = (f"{each.value:,.4g}", words(bound), kept, *sides)
        rows.append((each.name, *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
