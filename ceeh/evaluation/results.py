"""What an evaluation found: results.json, written from samples and settings alone, and read back.

Nothing in it depends on when or in how many goes the samples were drawn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ceeh.errors import ConfigError
from ceeh.evaluation.bootstrap import Estimates, average, estimates, intervals
from ceeh.evaluation.store import BenchmarkSamples, SampleStore
from ceeh.run.atomic import atomic_write_text
from ceeh.runtime.rng import derived_seed
from ceeh.runtime.text import plain, redact
from ceeh.runtime.versions import provenance

FORMAT = 1
FILE = "results.json"
SHOWN = ("accuracy", "tokens", "tokens_correct", "tokens_wrong", "truncated_fraction", "entropy")
"""Figures that every benchmark has, None where one is a mean over nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """An evaluation's folder, read: `record` is its results.json."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    benchmarks: Mapping[str, BenchmarkSamples]

    def title(self, benchmark: str) -> str:
        return plain(self.record["benchmarks"][benchmark]["settings"]["title"])


def benchmark_estimates(
    samples: BenchmarkSamples, name: str, *, draws: int, seed: int
) -> Estimates:
    """Figures of a benchmark and their draws; one seed draws the same questions for every policy."""
    return estimates(samples.table, draws=draws, seed=derived_seed(seed, "bootstrap", name))


def by_level(samples: BenchmarkSamples) -> dict[str, Bool[Tensor, " Q"]]:
    """Which questions [Q] are of each level, levels in order; empty without levels."""
    if samples.levels is None:
        return {}
    levels = samples.levels
    return {
        level: torch.tensor([each == level for each in levels])
        for level in sorted(set(levels), key=_level_order)
    }


def shared_levels(results: Mapping[str, Results], name: str) -> list[str]:
    """Levels of a benchmark that all results have, in the first one's order."""
    of_each = [result.record["benchmarks"][name]["levels"] for result in results.values()]
    return [level for level in of_each[0] if all(level in levels for levels in of_each)]


def write_results(
    store: SampleStore, *, name: str, model: Mapping[str, Any], protocol: Mapping[str, Any]
) -> Results:
    """results.json of all samples in `store`, whichever command drew them."""
    draws, told = protocol["bootstrap_draws"], store.told()
    samples = dict(store.read())
    found, of_benchmarks = {}, []
    for key, drawn_samples in samples.items():
        settings = told[key]["settings"]
        drawn = benchmark_estimates(drawn_samples, key, draws=draws, seed=settings["seed"])
        of_benchmarks.append(drawn)
        found[key] = {
            "settings": settings,
            "skipped": told[key]["skipped"],
            "questions": drawn_samples.table.questions,
            "samples": drawn_samples.table.samples,
            "outcomes": drawn_samples.outcomes,
            "figures": intervals(drawn),
            "levels": _levels(drawn_samples, key, draws=draws, seed=settings["seed"]),
        }
    record = {
        "format": FORMAT,
        "name": name,
        "model": model,
        "protocol": redact(protocol),
        "versions": provenance(),
        "benchmarks": found,
        "average": intervals(average(of_benchmarks)),
    }
    atomic_write_text(store.folder / FILE, json.dumps(record, indent=2) + "\n")
    return Results(name=name, folder=store.folder, record=record, benchmarks=samples)


def read_results(place: str) -> Results:
    """The results in a folder, or in `evaluation/` of a run folder.

    Raises ConfigError where there are none, or none that this version can read.
    """
    folder = Path(place).expanduser()
    if not (folder / FILE).is_file() and (folder / "evaluation" / FILE).is_file():
        folder = folder / "evaluation"
    file = folder / FILE
    if not file.is_file():
        raise ConfigError(
            f"'{place}' holds no {FILE}; give the output folder of python -m ceeh.evaluate, or a run "
            "folder that was evaluated"
        )
    try:
        record = json.loads(file.read_text())
        version, benchmarks, name = record["format"], record["benchmarks"], record["name"]
        if version == FORMAT:
            _check_shape(record)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{file} is not what python -m ceeh.evaluate writes ({type(error).__name__}: {error}); "
            "evaluate again"
        ) from error
    if version != FORMAT:
        raise ConfigError(
            f"{file} has format {version}, this version reads {FORMAT}; evaluate again"
        )
    samples = {key: value for key, value in SampleStore(folder).read() if key in benchmarks}
    if missing := benchmarks.keys() - samples.keys():
        raise ConfigError(
            f"{folder}/samples.parquet lacks {', '.join(sorted(missing))}; evaluate again"
        )
    return Results(name=plain(name), folder=folder, record=record, benchmarks=samples)


def _check_shape(record: Mapping[str, Any]) -> None:
    """Raises KeyError or TypeError for a record that `write_results` did not write."""

    def mapping(node: Any, *keys: str) -> Any:
        for key in keys:
            node = node[key]
        if not isinstance(node, dict):
            raise TypeError(f"{'.'.join(keys)} must be a mapping, got {type(node).__name__}")
        return node

    if not isinstance(record["name"], str):
        raise TypeError("name must be text")
    for key in ("model", "protocol", "versions", "average"):
        mapping(record, key)
    for each in mapping(record, "benchmarks").values():
        if not isinstance(mapping(each, "settings")["title"], str):
            raise TypeError("settings.title must be text")
        if not isinstance(each["questions"], int) or not isinstance(each["samples"], int):
            raise TypeError("questions and samples must be numbers")
        of_levels = [mapping(level, "figures") for level in mapping(each, "levels").values()]
        for figures in (mapping(each, "figures"), *of_levels):
            for name in SHOWN:
                if (
                    figures[name] is not None
                    and not {"value", "low", "high"} <= figures[name].keys()
                ):
                    raise TypeError(f"figures.{name} must have value, low and high")


def flat_figures(record: Mapping[str, Any]) -> dict[str, float]:
    """`eval/<benchmark>/<figure>` -> value, for a tracking server."""
    parts: Sequence[tuple[str, Mapping[str, Any]]] = [
        *((key, told["figures"]) for key, told in record["benchmarks"].items()),
        ("average", record["average"]),
    ]
    return {
        f"eval/{key}/{name}": figure["value"]
        for key, figures in parts
        for name, figure in figures.items()
        if figure is not None
    }


def _levels(samples: BenchmarkSamples, name: str, *, draws: int, seed: int) -> dict[str, Any]:
    found = {}
    for level, chosen in by_level(samples).items():
        rows = samples.table.rows(chosen)
        drawn = estimates(rows, draws=draws, seed=derived_seed(seed, "bootstrap", name, level))
        found[level] = {"questions": rows.questions, "figures": intervals(drawn)}
    return found


def _level_order(level: str) -> tuple[bool, float, str]:
    """Numbers by value, before words."""
    try:
        return False, float(level), level
    except ValueError:
        return True, 0.0, level
