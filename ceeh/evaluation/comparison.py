"""Policies against a base on the same questions: paired differences, NAG, and a margin of accuracy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ceeh.errors import ConfigError
from ceeh.evaluation.bootstrap import Estimates, Interval, average, differences, intervals
from ceeh.evaluation.metrics import nag_product, nag_quotient
from ceeh.evaluation.results import Results, benchmark_estimates, shared_benchmarks
from ceeh.evaluation.store import BenchmarkSamples

AVERAGE = "average"

IGNORED_SETTINGS = ("questions", "questions_digest", "questions_per_batch", "seed", "title")
"""Settings whose difference needs no note: where the questions are stored, how samples were drawn.

The digest depends on the tokenizer, too: the questions themselves are compared, by uid.
"""
TEXT, REFERENCE = 0, 1
"""Parts of what `BenchmarkSamples.asked` has."""

NAG = (
    "NAG is the accuracy lost, (1 - accuracy / base's) x 100, times (product) or divided by (quotient) the "
    "square root of the share of tokens saved; below 0 is a gain, - where nothing was saved"
)


def compare(
    results: Mapping[str, Results], *, draws: int, seed: int, margin: float
) -> dict[str, Any]:
    """Compares all `results` (label -> results) with the first of them, the base.

    Returns {"base": label, "margin", "benchmarks": {name: {"title", "questions", "models": {label:
    metrics}, "changes": {label: change}}, "average": likewise}, "notes": [...]}. A change holds the
    paired differences of all shared metrics, tokens also as `tokens_relative`; `nag_product` and
    `nag_quotient`; and `within_margin`, see `within`. Accuracies in [0, 1], `margin` in points.
    Raises ConfigError when no benchmark is shared, or its questions differ.
    """
    base, *others = results
    shared = shared_benchmarks(results)
    if not shared:
        there = "; ".join(f"{key}: {', '.join(each.benchmarks)}" for key, each in results.items())
        raise ConfigError(f"the results share no benchmark ({there}); evaluate all on the same one")
    drawn: dict[str, dict[str, Estimates]] = {label: {} for label in results}
    for name in shared:
        of_base = results[base].benchmarks[name]
        for label, result in results.items():
            place = f"{label}, {name}"
            samples = aligned(result.benchmarks[name], of_base.uids, place, base)
            if uids := changed(of_base, samples, TEXT):
                raise ConfigError(
                    f"{place}: {len(uids)} questions are not those of {base} although their uids are, the "
                    f"first is '{uids[0]}'; evaluate both on the same questions (the same data and limit)"
                )
            drawn[label][name] = benchmark_estimates(samples, name, draws=draws, seed=seed)
    for of_label in drawn.values():
        of_label[AVERAGE] = average([of_label[name] for name in shared])

    def part(name: str) -> dict[str, Any]:
        before = drawn[base][name]
        return {
            "models": {label: intervals(drawn[label][name]) for label in results},
            "changes": {label: change(before, drawn[label][name], margin) for label in others},
        }

    def facts(name: str) -> dict[str, Any]:
        tables = {label: result.benchmarks[name].table for label, result in results.items()}
        return {
            "title": results[base].title(name),
            "questions": tables[base].questions,
            "samples": {label: table.samples for label, table in tables.items()},
        }

    return {
        "base": base,
        "margin": margin,
        "draws": draws,
        "seed": seed,
        "benchmarks": {name: facts(name) | part(name) for name in shared},
        AVERAGE: part(AVERAGE),
        "notes": [*notes(results, shared), NAG],
    }


def change(before: Estimates, after: Estimates, margin: float) -> dict[str, Any]:
    """Paired differences between one policy and the base, as `compare` returns them."""
    found: dict[str, Any] = intervals(differences(before, after))
    values = [float(drawn[name][0]) for name in ("accuracy", "tokens") for drawn in (after, before)]
    for nag in (nag_product, nag_quotient):
        value = nag(*values)
        found[nag.__name__] = None if math.isnan(value) else value
    return found | {"within_margin": within(found["accuracy"], margin)}


def shown_parts(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The parts for tables and figures by title: the benchmarks and, of several, their average."""
    titles = [each["title"] for each in comparison["benchmarks"].values()]
    parts = {
        each["title"] if titles.count(each["title"]) == 1 else f"{each['title']} ({name})": each
        for name, each in comparison["benchmarks"].items()
    }
    return parts if len(parts) == 1 else parts | {AVERAGE: comparison[AVERAGE]}


def points(margin: float) -> str:
    return f"{margin:g} point" + ("" if margin == 1 else "s")


def within(accuracy: Interval | None, margin: float) -> str:
    """Whether accuracy fell by at most `margin` points, by the 95 % interval of the difference.

    "yes" when the whole interval is at or above -margin, "no" when all of it is below, "undecided"
    otherwise; more questions or samples would decide.
    """
    if accuracy is None:
        return "undecided"
    if 100 * accuracy["low"] >= -margin:
        return "yes"
    return "no" if 100 * accuracy["high"] < -margin else "undecided"


def aligned(
    samples: BenchmarkSamples, uids: Sequence[str], place: str, base: str
) -> BenchmarkSamples:
    """The samples with questions in the order of `uids`. Raises ConfigError for other uids."""
    if samples.uids == tuple(uids):
        return samples
    position = {uid: row for row, uid in enumerate(samples.uids)}
    if position.keys() != set(uids):
        missing = len(set(uids) - position.keys())
        raise ConfigError(
            f"{place}: it has {len(position)} questions and lacks {missing} of the {len(uids)} of {base}; "
            "evaluate both on the same questions (the same data and limit)"
        )
    order = [position[uid] for uid in uids]
    rows = samples.table.rows(torch.tensor(order))
    return replace(
        samples,
        table=replace(rows, index=samples.table.index),  # numbered in the base's order
        uids=tuple(uids),
        levels=samples.levels and tuple(samples.levels[row] for row in order),
    )


def changed(one: BenchmarkSamples, other: BenchmarkSamples, part: int) -> list[str]:
    """The uids under which `other` has another text, or reference, than `one`, white space aside."""
    return [
        uid
        for uid, asked in other.asked.items()
        if uid in one.asked and one.asked[uid][part].split() != asked[part].split()
    ]


def notes(results: Mapping[str, Results], shared: Sequence[str]) -> list[str]:
    """Settings and references that differ from the base's, and benchmarks that not all results have."""
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
            of_base, of_other = (results[each].benchmarks[name] for each in (base, label))
            if uids := changed(of_base, of_other, REFERENCE):
                found.append(
                    f"{name}: {len(uids)} questions have another reference for {label} than for {base}, the "
                    f"first is '{uids[0]}'"
                )
    for label, result in results.items():
        if left_out := [name for name in result.benchmarks if name not in shared]:
            found.append(f"{', '.join(left_out)} of {label} left out: not in all results")
    return found
