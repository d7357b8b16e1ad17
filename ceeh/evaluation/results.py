"""An evaluation's results.json: written from samples and settings alone, and read back.

It does not depend on when the samples were drawn, or on how often the evaluation was interrupted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ceeh.errors import ConfigError
from ceeh.evaluation.bootstrap import Estimates, Interval, average, estimates, intervals
from ceeh.evaluation.store import BenchmarkSamples, SampleStore
from ceeh.run.atomic import atomic_write_text
from ceeh.run.record import read_record
from ceeh.runtime.paths import expanded
from ceeh.runtime.rng import derived_seed
from ceeh.runtime.text import escape, redact, show
from ceeh.runtime.versions import provenance

FORMAT = 2
FILE = "results.json"
SHOWN = ("accuracy", "tokens", "tokens_correct", "tokens_wrong", "truncated_fraction", "entropy")
"""Metrics of every benchmark, None for a mean over nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """An evaluation's folder as read; `record` is its results.json."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    benchmarks: Mapping[str, BenchmarkSamples]

    def title(self, benchmark: str) -> str:
        return escape(self.record["benchmarks"][benchmark]["settings"]["title"])


def benchmark_estimates(
    samples: BenchmarkSamples, name: str, *, draws: int, seed: int
) -> Estimates:
    """A benchmark's metrics and their draws; one seed draws the same questions for every policy."""
    return estimates(samples.table, draws=draws, seed=derived_seed(seed, "bootstrap", name))


def shared_benchmarks(results: Mapping[str, Results]) -> list[str]:
    """Benchmarks that all results have, in the order of the first."""
    first, *others = results.values()
    return [name for name in first.benchmarks if all(name in each.benchmarks for each in others)]


def shared_levels(results: Mapping[str, Results], name: str) -> list[str]:
    """Levels of a benchmark that all results have, in the order of the first."""
    of_each = [result.record["benchmarks"][name]["levels"] for result in results.values()]
    return [level for level in of_each[0] if all(level in levels for levels in of_each)]


def write_results(
    store: SampleStore, *, name: str, model: Mapping[str, Any], protocol: Mapping[str, Any]
) -> Results:
    """Writes results.json for all samples in `store`, whichever command drew them."""
    samples = dict(store.read())
    record = build_record(samples, store.recorded(), name=name, model=model, protocol=protocol)
    atomic_write_text(store.folder / FILE, json.dumps(record, indent=2) + "\n")
    return Results(name=name, folder=store.folder, record=record, benchmarks=samples)


def build_record(
    samples: Mapping[str, BenchmarkSamples],
    drawn_by: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    model: Mapping[str, Any],
    protocol: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of results.json; `drawn_by` has the settings and skipped questions of each benchmark."""
    draws = protocol["bootstrap_draws"]
    found, of_benchmarks = {}, []
    for key, of_benchmark in samples.items():
        settings = drawn_by[key]["settings"]
        drawn = benchmark_estimates(of_benchmark, key, draws=draws, seed=settings["seed"])
        of_benchmarks.append(drawn)
        found[key] = {
            "settings": settings,
            "skipped": drawn_by[key]["skipped"],
            "questions": of_benchmark.table.questions,
            "samples": of_benchmark.table.samples,
            "outcomes": of_benchmark.outcomes,
            "metrics": intervals(drawn),
            "levels": _levels(of_benchmark, key, draws=draws, seed=settings["seed"]),
        }
    return {
        "format": FORMAT,
        "name": name,
        "model": model,
        "protocol": redact(protocol),
        "versions": provenance(),
        "benchmarks": found,
        "average": intervals(average(of_benchmarks)),
    }


def read_results(place: str) -> Results:
    """The results in a folder, or in `evaluation/` of a run folder.

    Raises ConfigError where there are none, or none that this version can read.
    """
    folder = results_folder(place)
    file = folder / FILE
    record = read_results_file(file)
    if record is None:
        raise ConfigError(
            f"'{place}' holds no {FILE}; give the output folder of python -m ceeh.evaluate, or a "
            "run folder"
        )
    benchmarks, name = record["benchmarks"], record["name"]
    samples = {key: value for key, value in SampleStore(folder).read() if key in benchmarks}
    if missing := benchmarks.keys() - samples.keys():
        raise ConfigError(
            f"{folder}/samples.parquet lacks {', '.join(sorted(missing))}; evaluate again"
        )
    return Results(name=escape(name), folder=folder, record=record, benchmarks=samples)


def read_results_file(file: Path) -> dict[str, Any] | None:
    """A results.json, None where there is none. Raises ConfigError for one that this version cannot read."""
    cure = "evaluate again, the samples are kept"
    record = read_record(file, _check_shape, of="python -m ceeh.evaluate", cure=cure)
    if record is not None and record["format"] != FORMAT:
        version = record["format"]
        raise ConfigError(f"{file} has format {version}, this version reads {FORMAT}; {cure}")
    return record


def results_folder(place: str) -> Path:
    """`place`, or its `evaluation/` where only that has results."""
    folder = expanded(place)
    if not (folder / FILE).is_file() and (folder / "evaluation" / FILE).is_file():
        return folder / "evaluation"
    return folder


def has_results(place: str) -> bool:
    return (results_folder(place) / FILE).is_file()


def _check_shape(record: Mapping[str, Any]) -> None:
    """Raises KeyError, TypeError or AttributeError for a record that lacks what readers use.

    Of another format, only the format must be there.
    """
    if record["format"] != FORMAT:
        return
    values: list[tuple[Any, Any]] = [(record["name"], str)]
    values += [(record[key], dict) for key in ("model", "protocol", "versions", "average")]
    for each in record["benchmarks"].values():
        values += [(each["settings"]["title"], str), (each["samples"], int)]
        for part in (each, *each["levels"].values()):
            found = [part["metrics"][name] for name in SHOWN]
            values += [
                (metric[key], float)
                for metric in found
                if metric
                for key in Interval.__annotations__
            ]
    for value, kind in values:
        if not isinstance(value, kind):
            raise TypeError(f"{show(value)} where {kind.__name__} is expected")


def flat_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """`eval/<benchmark>/<metric>` -> value, for a tracking server."""
    parts = {key: each["metrics"] for key, each in record["benchmarks"].items()}
    return {
        f"eval/{key}/{name}": metric["value"]
        for key, metrics in (*parts.items(), ("average", record["average"]))
        for name, metric in metrics.items()
        if metric is not None
    }


def _levels(samples: BenchmarkSamples, name: str, *, draws: int, seed: int) -> dict[str, Any]:
    """The record of each level, in order: numbers before words. Empty without levels."""

    def order(level: str) -> tuple[bool, float, str]:
        try:
            return False, float(level), level
        except ValueError:
            return True, 0.0, level

    found, levels = {}, samples.levels or ()
    for level in sorted(set(levels), key=order):
        rows = samples.table.rows(torch.tensor([each == level for each in levels]))
        drawn = estimates(rows, draws=draws, seed=derived_seed(seed, "bootstrap", name, level))
        found[level] = {"questions": rows.questions, "metrics": intervals(drawn)}
    return found
