"""Policies against a first one on the same questions: paired differences, NAG, a margin and who keeps it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ceeh.errors import ConfigError
from ceeh.evaluation.bootstrap import Estimates, Interval, average, differences, interval, intervals
from ceeh.evaluation.metrics import nag_product, nag_quotient
from ceeh.evaluation.results import Results, benchmark_estimates
from ceeh.evaluation.samples import COLUMNS, SampleTable
from ceeh.evaluation.store import BenchmarkSamples

AVERAGE = "average"

IGNORED_SETTINGS = ("questions", "questions_digest", "questions_per_batch", "seed", "title")
"""Settings that may differ without a word: where the questions lie, how the samples were drawn."""


def compare(
    results: Mapping[str, Results], *, draws: int, seed: int, margin: float
) -> dict[str, Any]:
    """The first of `results` (label -> results) is the base of all others.

    Returns {"base": label, "margin", "benchmarks": {name: {"title", "questions", "models": {label:
    figures}, "changes": {label: change}}, "average": likewise}, "notes": [...]}. A change holds the
    paired differences of all shared figures, tokens also as `tokens_relative`; `nag_product` and
    `nag_quotient`; and `within_margin`, see `within`. Accuracies in [0, 1], `margin` in points.
    Raises ConfigError when the benchmarks or their questions are not the same.
    """
    base, *others = results
    shared = shared_benchmarks(results)
    drawn: dict[str, dict[str, Estimates]] = {label: {} for label in results}
    for name in shared:
        uids = results[base].benchmarks[name].uids
        for label, result in results.items():
            samples = aligned(result.benchmarks[name], uids, f"{label}, {name}", base)
            drawn[label][name] = benchmark_estimates(samples, name, draws=draws, seed=seed)
    for label in results:
        drawn[label][AVERAGE] = average([drawn[label][name] for name in shared])

    def part(name: str) -> dict[str, Any]:
        before = drawn[base][name]
        return {
            "models": {label: intervals(drawn[label][name]) for label in results},
            "changes": {label: change(before, drawn[label][name], margin) for label in others},
        }

    return {
        "base": base,
        "margin": margin,
        "draws": draws,
        "seed": seed,
        "benchmarks": {
            name: {
                "title": results[base].title(name),
                "questions": results[base].benchmarks[name].table.questions,
                "samples": {
                    label: result.benchmarks[name].table.samples
                    for label, result in results.items()
                },
            }
            | part(name)
            for name in shared
        },
        AVERAGE: part(AVERAGE),
        "notes": notes(results, shared),
    }


def change(before: Estimates, after: Estimates, margin: float) -> dict[str, Any]:
    """Paired differences of one policy against the base, as `compare` returns them."""
    found: dict[str, Any] = intervals(differences(before, after))
    one = [float(drawn[name][0]) for name in ("accuracy", "tokens") for drawn in (after, before)]
    for nag in (nag_product, nag_quotient):
        value = nag(*one)
        found[nag.__name__] = None if math.isnan(value) else value
    accuracy = interval(after["accuracy"] - before["accuracy"])
    found["within_margin"] = within(accuracy, margin)
    return found


def shown_parts(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """What tables and figures show, by title: the benchmarks and, of several, their average."""
    titles = [told["title"] for told in comparison["benchmarks"].values()]
    parts = {
        told["title"] if titles.count(told["title"]) == 1 else f"{told['title']} ({name})": told
        for name, told in comparison["benchmarks"].items()
    }
    return parts if len(parts) == 1 else parts | {AVERAGE: comparison[AVERAGE]}


def points(margin: float) -> str:
    return f"{margin:g} point" + ("" if margin == 1 else "s")


def within(accuracy: Interval | None, margin: float) -> str:
    """Whether accuracy fell by at most `margin` points: decided by the 95 % interval of the difference.

    "yes" when the whole interval is at or above -margin, "no" when the whole of it is below,
    "undecided" otherwise: more questions or samples would tell.
    """
    if accuracy is None:
        return "undecided"
    if 100 * accuracy["low"] >= -margin:
        return "yes"
    return "no" if 100 * accuracy["high"] < -margin else "undecided"


def shared_benchmarks(results: Mapping[str, Results]) -> list[str]:
    """Benchmarks of all, in the base's order. Raises ConfigError when there is none."""
    base, *others = results.values()
    shared = [name for name in base.benchmarks if all(name in other.benchmarks for other in others)]
    if not shared:
        there = "; ".join(f"{key}: {', '.join(each.benchmarks)}" for key, each in results.items())
        raise ConfigError(f"no benchmark is in all results ({there}); evaluate all on the same")
    return shared


def aligned(
    samples: BenchmarkSamples, uids: Sequence[str], place: str, base: str
) -> BenchmarkSamples:
    """The samples with their questions in the order of `uids`.

    Raises ConfigError when they are not the same questions.
    """
    if samples.uids == tuple(uids):
        return samples
    position = {uid: row for row, uid in enumerate(samples.uids)}
    if position.keys() != set(uids):
        missing = len(set(uids) - position.keys())
        raise ConfigError(
            f"{place}: {len(position)} questions, {missing} of the {len(uids)} of {base} are not among "
            "them; evaluate both on the same questions (the same data and limit)"
        )
    order = torch.tensor([position[uid] for uid in uids])
    columns = {name: getattr(samples.table, name)[order] for name in COLUMNS}
    return BenchmarkSamples(
        table=SampleTable(index=torch.arange(len(order)), **columns),
        uids=tuple(uids),
        levels=samples.levels and tuple(samples.levels[row] for row in order.tolist()),
        outcomes=samples.outcomes,
    )


def notes(results: Mapping[str, Results], shared: Sequence[str]) -> list[str]:
    """What a reader must know: settings that differ, benchmarks that are not in all."""
    base, *others = results
    found = []
    for label in others:
        for name in shared:
            one, other = (
                results[each].record["benchmarks"][name]["settings"] for each in (base, label)
            )
            found += [
                f"{name}: {key} is {one[key]!r} for {base} and {other.get(key)!r} for {label}"
                for key in one
                if one[key] != other.get(key) and key not in IGNORED_SETTINGS
            ]
    for label, result in results.items():
        if left := [name for name in result.benchmarks if name not in shared]:
            found.append(f"{', '.join(left)} of {label} left out: not in all results")
    return found
