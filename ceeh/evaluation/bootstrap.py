"""95 % bootstrap intervals: questions drawn with replacement, then samples within each drawn question.

Of several trainings with different seeds, the seeds are drawn too. Axes: D draws, Q questions,
K samples per question, S training seeds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from ceeh.evaluation.metrics import question_values, sample_ratios
from ceeh.evaluation.samples import SampleTable

CHUNK_SAMPLES = 1_000_000  # samples drawn at once, about 30 MB

Estimates = Mapping[str, np.ndarray]
"""Metric by name -> [1 + D]: the estimate itself, then its draws. NaN for a mean over nothing."""


class Interval(TypedDict):
    """A metric with its 95 % percentile interval."""

    value: float
    low: float
    high: float


def estimates(table: SampleTable, *, draws: int, seed: int) -> Estimates:
    """Every metric of `table` and `draws` bootstrap draws of it.

    Two tables of the same questions with one `seed` draw the same questions: differences of their
    estimates are paired, whatever their numbers of samples. Metrics of samples (accuracy, tokens)
    also draw samples within each drawn question. This counts the samples' noise twice, so their
    intervals are too wide rather than too narrow. Metrics of questions (pass@k, maj@k, entropy) draw
    questions alone: a resampled group repeats samples, so its pass@k is too low (one correct of 8
    gives 1 at k = 8, resampled 1 - (7/8)^8 = 0.66), and drawing questions already includes the noise
    of their samples.
    """
    ratios, by_question = sample_ratios(table), question_values(table)
    questions, samples = table.questions, table.samples
    if not questions:
        return {name: np.full(1, math.nan) for name in (*ratios, *by_question)}
    pairs = np.stack([part.ravel() for pair in ratios.values() for part in pair], 1)
    values = np.stack(list(by_question.values()), 1)
    sums, means = [pairs.sum(0, keepdims=True)], [values.mean(0, keepdims=True)]
    # Two generators, so that the questions drawn do not depend on the number of samples.
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
    """after - before for the metrics of both; for tokens also `<name>_relative`, after / before - 1."""
    change = {name: after[name] - before[name] for name in before if name in after}
    with np.errstate(invalid="ignore", divide="ignore"):
        return change | {
            f"{name}_relative": after[name] / before[name] - 1
            for name in change
            if name.startswith("tokens")
        }


def average(of_benchmarks: list[Estimates]) -> Estimates:
    """The mean over benchmarks of each metric that all of them have, draw by draw.

    The benchmarks' draws must be independent: each needs its own seed.
    """
    shared = [
        name for name in of_benchmarks[0] if all(name in estimate for estimate in of_benchmarks)
    ]
    return {
        name: np.mean([estimate[name] for estimate in of_benchmarks], axis=0) for name in shared
    }


def pooled(of_seeds: Sequence[Estimates], *, seed: int) -> Estimates:
    """The mean over training seeds of each metric, with seeds drawn with replacement.

    `of_seeds` are the estimates of the same questions by one bootstrap seed, so that a draw has the same
    questions for every training seed: questions and seeds are crossed, and both are drawn (the pigeonhole
    bootstrap, which is mildly conservative: Owen 2007, https://doi.org/10.1214/07-AOAS122). A draw has
    S - 1 seeds: with S of them the variance of a mean over seeds would come out as (S - 1) / S of its
    unbiased estimate, two thirds for 3 seeds (Rao and Wu 1988, JASA 83, 231-241). One seed alone has no
    spread of its own. Two arms with the same seeds in the same order draw the same ones, so that their
    differences are paired.
    """
    seeds, draws = len(of_seeds), len(next(iter(of_seeds[0].values()))) - 1
    drawn = np.random.default_rng((seed, 2)).integers(seeds, size=(draws, max(seeds - 1, 1)))
    weights = np.full((1 + draws, seeds), 1 / seeds)
    weights[1:] = _times_drawn(drawn, seeds) / drawn.shape[1]
    return {
        name: (weights * np.stack([each[name] for each in of_seeds], 1)).sum(1)
        for name in of_seeds[0]
    }


def win_share(one: np.ndarray, other: np.ndarray) -> float:
    """The share of paired draws in which `one` is larger than `other`; a tie counts half."""
    ahead = one[1:] - other[1:]
    return float(((ahead > 0) + 0.5 * (ahead == 0)).mean())


def interval(draws: np.ndarray) -> Interval | None:
    """The estimate (entry 0) and the percentiles 2.5 and 97.5 of its draws; None where it is NaN.

    NaN draws (e.g. a resample without a wrong response) are left out.
    """
    if math.isnan(draws[0]):
        return None
    found = draws[1:][~np.isnan(draws[1:])]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (draws[0], draws[0])
    return Interval(value=float(draws[0]), low=float(low), high=float(high))


def intervals(drawn: Estimates) -> dict[str, Interval | None]:
    return {name: interval(draws) for name, draws in drawn.items()}


def _times_drawn(picked: np.ndarray, size: int) -> np.ndarray:
    """How often each draw picked each of `size` items [D, size]."""
    offsets = np.arange(len(picked))[:, None] * size
    counts = np.bincount((picked + offsets).ravel(), minlength=len(picked) * size)
    return counts.reshape(len(picked), size).astype(np.float64)
