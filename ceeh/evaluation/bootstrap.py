"""95 % percentile intervals: questions drawn with replacement, then samples within each drawn question.

Axes: D draws, Q questions, K samples per question.
"""

import math
from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from ceeh.evaluation.metrics import question_values, sample_ratios
from ceeh.evaluation.samples import SampleTable

CHUNK_SAMPLES = 1_000_000  # samples drawn at once: some 30 MB

Estimates = Mapping[str, np.ndarray]
"""Figure by name -> [1 + D]: the estimate itself, then its draws. NaN for a mean over nothing."""


class Interval(TypedDict):
    """A figure with its 95 % percentile interval."""

    value: float
    low: float
    high: float


def estimates(table: SampleTable, *, draws: int, seed: int) -> Estimates:
    """Every figure of `table` and `draws` bootstrap draws of it.

    Two tables of the same questions drawn with one `seed` draw the same questions: differences of
    their estimates are paired, whatever their numbers of samples. Figures of samples (accuracy,
    tokens) draw samples within each drawn question too, which counts the noise of the samples twice:
    their intervals are on the safe side. Figures of questions (pass@k, maj@k,
    entropy) draw questions alone: a resampled group repeats samples, so its pass@k is too low (one
    right of 8 counts 1 at k = 8, resampled 1 - (7/8)^8 = 0.66), and drawing questions already
    carries the noise of their samples.
    """
    ratios, by_question = sample_ratios(table), question_values(table)
    questions, samples = table.questions, table.samples
    if not questions:
        return {name: np.full(1, math.nan) for name in (*ratios, *by_question)}
    pairs = np.stack([part.ravel() for pair in ratios.values() for part in pair], 1)
    values = np.stack(list(by_question.values()), 1)
    sums, means = [pairs.sum(0, keepdims=True)], [values.mean(0, keepdims=True)]
    # Two generators: the questions drawn do not depend on the number of samples.
    of_questions, of_samples = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    chunk = max(1, CHUNK_SAMPLES // (questions * samples))
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        question = of_questions.integers(questions, size=(count, questions))
        sample = of_samples.integers(samples, size=(count, questions, samples))
        picked = (question[..., None] * samples + sample).reshape(count, -1)
        sums.append(_times_drawn(picked, questions * samples) @ pairs)
        means.append(_times_drawn(question, questions) @ values / questions)
    summed, mean = np.concatenate(sums), np.concatenate(means)
    above, below = summed[:, ::2], summed[:, 1::2]
    with np.errstate(invalid="ignore"):
        quotients = above / below
    return {name: quotients[:, i] for i, name in enumerate(ratios)} | {
        name: mean[:, i] for i, name in enumerate(by_question)
    }


def differences(before: Estimates, after: Estimates) -> Estimates:
    """after - before for the figures of both; tokens, too, as `<name>_relative`, after / before - 1."""
    shared = [name for name in before if name in after]
    change = {name: after[name] - before[name] for name in shared}
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = {
            f"{name}_relative": after[name] / before[name] - 1
            for name in shared
            if name.startswith("tokens")
        }
    return change | relative


def average(of_benchmarks: list[Estimates]) -> Estimates:
    """The mean over benchmarks of each figure that all of them have, draw by draw.

    The benchmarks' draws are taken as independent: give each its own seed.
    """
    shared = [
        name for name in of_benchmarks[0] if all(name in estimate for estimate in of_benchmarks)
    ]
    return {
        name: np.mean([estimate[name] for estimate in of_benchmarks], axis=0) for name in shared
    }


def interval(draws: np.ndarray) -> Interval | None:
    """The estimate (entry 0) and the percentiles 2.5 and 97.5 of its draws; None where it is NaN.

    Draws that are NaN (a resample without a single wrong response) are left out.
    """
    if math.isnan(draws[0]):
        return None
    found = draws[1:][~np.isnan(draws[1:])]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (draws[0], draws[0])
    return Interval(value=float(draws[0]), low=float(low), high=float(high))


def intervals(of_figures: Estimates) -> dict[str, Interval | None]:
    return {name: interval(draws) for name, draws in of_figures.items()}


def _times_drawn(picked: np.ndarray, size: int) -> np.ndarray:
    """How often each of `size` things is among the picks of each draw [D, size]."""
    offsets = np.arange(len(picked))[:, None] * size
    counts = np.bincount((picked + offsets).ravel(), minlength=len(picked) * size)
    return counts.reshape(len(picked), size).astype(np.float64)
