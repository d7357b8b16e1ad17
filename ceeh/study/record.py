"""results.json of a study: what its runs measured, pooled over seeds, and what is missing.

Axis: Q questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ceeh.config.study import UNTRAINED, sampling_words
from ceeh.evaluation.bootstrap import (
    Estimates,
    average,
    differences,
    estimates,
    intervals,
    pooled,
    win_share,
)
from ceeh.evaluation.comparison import aligned
from ceeh.evaluation.metrics import hard_below, majority_sizes
from ceeh.evaluation.results import read_results
from ceeh.evaluation.samples import NO_ANSWER, SampleTable
from ceeh.evaluation.store import BenchmarkSamples
from ceeh.run.metrics_file import read_rows
from ceeh.runtime.rng import derived_seed
from ceeh.runtime.versions import provenance
from ceeh.study.plan import Plan, StudyRun

FORMAT = 1
SUBSETS = ("all", "easy", "hard")
ENTROPY = "loss/entropy_hard"
METRICS = ("accuracy", "tokens", "tokens_correct", "truncated_fraction", "entropy")
"""Reported beside pass@k, for k the powers of two and all samples."""
WINS = {"accuracy": 1, "tokens": -1}
"""Metrics of the win matrix: 1 where more is better, -1 where less is."""

Drawn = Mapping[str, Mapping[int, Estimates]]
"""Arm -> training seed -> estimates; all with the same draws of questions."""
Samples = Mapping[StudyRun, Mapping[str, BenchmarkSamples]]
"""The samples of each evaluated run by benchmark, the questions in one order for all runs."""


def build_record(plan: Plan, failures: Mapping[str, str]) -> dict[str, Any]:
    """The content of results.json for the runs that are there; `failures` says why a run failed.

    {"arms": {arm: its evaluated seeds}, "sampling": {setting: {"subsets": {"all": {"questions", "arms":
    {arm: intervals}, "changes": {arm: paired intervals against the baseline}}, "easy", "hard"}, "wins":
    {metric: {arm: {other: share of draws}}}}}, "entropy": {arm: curve}, "missing": [...], ...}.
    """
    samples = read_samples(plan)
    hard = hard_questions(plan, samples)
    return {
        "format": FORMAT,
        "name": plan.study.name,
        "baseline": plan.study.baseline,
        "benchmarks": list(plan.study.evaluation.benchmarks),
        "draws": plan.protocol.bootstrap_draws,
        "versions": provenance(),
        "arms": {arm: sorted(run.seed for run in samples if run.arm == arm) for arm in plan.arms},
        "sampling": {
            setting: {"title": sampling_words(how), "samples": how.samples}
            | of_setting(plan, samples, hard, plan.sampling[setting])
            for setting, how in plan.study.evaluation.sampling.items()
        },
        "entropy": {arm: curve for arm in plan.arms if (curve := entropy_curve(plan, arm))},
        "missing": missing(plan, failures, hard is None),
    }


def read_samples(plan: Plan) -> Samples:
    """Raises ConfigError where two evaluations have other questions."""
    found: dict[StudyRun, dict[str, BenchmarkSamples]] = {}
    first: tuple[StudyRun, Mapping[str, BenchmarkSamples]] | None = None
    for run in plan.runs:
        if not plan.evaluated(run):
            continue
        read = read_results(str(run.evaluation)).benchmarks
        first = first or (run, read)
        found[run] = {
            name: aligned(read[name], first[1][name].uids, f"{run.name}, {name}", first[0].name)
            for name in plan.benchmarks
        }
    return found


def hard_questions(plan: Plan, samples: Samples) -> list[Bool[Tensor, " Q"]] | None:
    """Per benchmark, the questions that the untrained model solves less often than on average.

    By its samples with the first sampling setting; None where it was not evaluated. Its own row is left
    out of easy and hard questions: selected for its failures, it would look worse than it is.
    """
    untrained = next((each for run, each in samples.items() if run.arm == UNTRAINED), None)
    if untrained is None:
        return None
    names = next(iter(plan.sampling.values()))
    accuracies = [untrained[name].table.correct.float().mean(1) for name in names]
    return [each < hard_below(float(each.mean())) for each in accuracies]


def of_setting(
    plan: Plan,
    samples: Samples,
    hard: Sequence[Bool[Tensor, " Q"]] | None,
    names: Sequence[str],
) -> dict[str, Any]:
    """The subsets of questions and the win matrices, with one sampling setting."""
    subsets, won = {}, {}
    for subset in SUBSETS if hard is not None else SUBSETS[:1]:
        drawn: dict[str, dict[int, Estimates]] = {}
        questions = 0
        for run, of_run in samples.items():
            if subset != "all" and run.arm == UNTRAINED:
                continue
            tables = {name: of_run[name].table for name in names}
            if subset != "all" and hard is not None:
                tables = {
                    name: table.rows(mask if subset == "hard" else ~mask)
                    for (name, table), mask in zip(tables.items(), hard, strict=True)
                }
            tables = {name: table for name, table in tables.items() if table.questions}
            if tables:
                drawn.setdefault(run.arm, {})[run.seed] = estimated(plan, tables, subset)
                questions = sum(table.questions for table in tables.values())
        if drawn:
            subsets[subset] = {"questions": questions} | compared(plan, drawn)
        if subset == "all":
            won = wins(plan, drawn)
    return {"subsets": subsets, "wins": won}


def estimated(plan: Plan, tables: Mapping[str, SampleTable], subset: str) -> Estimates:
    """A run's reported metrics, the mean over benchmarks. Votes are not counted: they are not reported."""
    draws, seed = plan.protocol.bootstrap_draws, plan.protocol.seed
    of_each = []
    for name, table in tables.items():
        silent = replace(table, answers=torch.full_like(table.answers, NO_ANSWER))
        sizes = [f"pass_at_{k}" for k in majority_sizes(table.samples)]
        drawn = estimates(silent, draws=draws, seed=derived_seed(seed, "bootstrap", name, subset))
        of_each.append({metric: drawn[metric] for metric in (*METRICS, *sizes)})
    return average(of_each)


def compared(plan: Plan, drawn: Drawn) -> dict[str, Any]:
    """Intervals of each arm over all its seeds, and of its change against the baseline."""
    base, seed = plan.study.baseline, plan.protocol.seed
    changes = {
        arm: intervals(differences(*pair))
        for arm in drawn
        if arm != base and (pair := paired(drawn, base, arm, seed))
    }
    return {
        "arms": {
            arm: intervals(pooled(list(of_seeds.values()), seed=seed))
            for arm, of_seeds in drawn.items()
        },
        "changes": changes,
    }


def paired(drawn: Drawn, one: str, other: str, seed: int) -> tuple[Estimates, Estimates] | None:
    """Both arms pooled over the seeds that both have; None without any.

    The untrained model has no training seed: it is paired by questions alone.
    """
    seeds = [drawn.get(arm, {}) for arm in (one, other)]
    if UNTRAINED not in (one, other):
        shared = sorted(seeds[0].keys() & seeds[1].keys())
        seeds = [{each: of_arm[each] for each in shared} for of_arm in seeds]
    if not all(seeds):
        return None
    before, after = (pooled(list(of_arm.values()), seed=seed) for of_arm in seeds)
    return before, after


def wins(plan: Plan, drawn: Drawn) -> dict[str, dict[str, dict[str, float]]]:
    """Metric -> arm -> other arm -> the share of draws in which the arm is better."""
    found: dict[str, dict[str, dict[str, float]]] = {
        metric: {arm: {} for arm in drawn} for metric in WINS
    }
    for one, other in permutations(drawn, 2):
        if pair := paired(drawn, one, other, plan.protocol.seed):
            for metric, sign in WINS.items():
                better, worse = (sign * each[metric] for each in pair)
                found[metric][one][other] = win_share(better, worse)
    return found


def entropy_curve(plan: Plan, arm: str) -> Mapping[str, Sequence[float]] | None:
    """Nats per token on the questions that were hard at each rollout step: mean over seeds, least, most.

    Of the runs that ended; a step counts those of them that had hard questions. None without any.
    """
    by_step: dict[int, list[float]] = {}
    for run in plan.runs:
        if run.arm != arm or not run.trained:
            continue
        for row in read_rows(run.folder):
            if row.get(ENTROPY) is not None:
                by_step.setdefault(row["rollout_step"], []).append(row[ENTROPY])
    if not by_step:
        return None
    steps = sorted(by_step)
    return {
        "rollout_step": steps,
        "mean": [float(np.mean(by_step[step])) for step in steps],
        "low": [min(by_step[step]) for step in steps],
        "high": [max(by_step[step]) for step in steps],
    }


def missing(plan: Plan, failures: Mapping[str, str], hard_unknown: bool) -> list[str]:
    """What the report lacks, a sentence each."""
    left = [
        f"{run.name}: {failures.get(run.name) or plan.state(run)}"
        for run in plan.runs
        if not (run.trained and plan.evaluated(run))
    ]
    if hard_unknown:
        left.append("easy and hard questions: the untrained model, which tells them apart")
    return left
