"""Metrics of one rollout step, named once: `rollout/` and `reward/` of the batch, `loss/` of the tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ceeh.data.batch import RolloutBatch
from ceeh.data.verify.base import outcome_counts
from ceeh.modules.advantages import group_std
from ceeh.types import GroupOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMetrics:
    """One rank's part of a step: its batch's metrics, values of its rows, sums over its tokens."""

    batch: Mapping[str, float]
    rows: Mapping[str, Float[Tensor, " R"]]
    tokens: Mapping[str, float]

    @classmethod
    def of(
        cls,
        batch: RolloutBatch,
        rewards: Float[Tensor, " R"],
        hard: Float[Tensor, " R"],
        shaping: Mapping[str, Float[Tensor, " R"]],
        tokens: Mapping[str, float],
    ) -> "RankMetrics":
        """`hard` is 1 for rows of hard prompts, `shaping` are a shaping's own metrics per row, `tokens` the
        objective's sums.
        """
        accuracy, lengths = batch.correct.float(), batch.lengths.float()
        rows = {
            "rollout/tokens_correct": torch.where(batch.correct, lengths, torch.nan),
            "rollout/tokens_wrong": torch.where(batch.correct, torch.nan, lengths),
        } | {f"reward/{name}": values for name, values in shaping.items()}
        for part, chosen in (("easy", hard == 0), ("hard", hard != 0)):
            rows[f"rollout/accuracy_{part}"] = torch.where(chosen, accuracy, torch.nan)
            rows[f"rollout/tokens_{part}"] = torch.where(chosen, lengths, torch.nan)
        return cls(
            batch=rollout_metrics(batch, rewards)
            | {f"time/{name}": value for name, value in batch.timings.items()}
            | {"time/waiting_max": batch.timings.get("waiting", 0.0)},
            rows={name: values.cpu() for name, values in rows.items()},
            tokens=tokens,
        )


def join_ranks(ranks: Sequence[RankMetrics], updates: int) -> dict[str, float]:
    """The step's metrics over all ranks; they do not depend on the number of ranks."""
    total: dict[str, float] = {}
    for rank in ranks:
        add_to(total, rank.tokens)
    # Every rank sees the norm of the same gradient.
    total["grad_norm"] = ranks[0].tokens["grad_norm"]
    return (
        over_ranks([rank.batch for rank in ranks])
        | row_means([rank.rows for rank in ranks])
        | objective_metrics(total, updates)
    )


def rollout_metrics(batch: RolloutBatch, rewards: Tensor) -> dict[str, float]:
    """Accuracy, lengths (tokens), truncation, verifier outcomes and rewards over the batch's rows."""
    lengths = batch.lengths.float()
    finished = torch.tensor([flag for outcome in batch.outcomes for flag in outcome.finished])
    accuracy = torch.tensor([outcome.accuracy for outcome in batch.outcomes])
    sizes = [len(outcome.correct) for outcome in batch.outcomes]
    unused = sum(sum(outcome.lengths) for outcome in batch.dropped)
    std = group_std(rewards, batch.group, batch.num_prompts)
    metrics = {
        "rollout/accuracy": float(batch.correct.float().mean()),
        "rollout/tokens_mean": float(lengths.mean()),
        "rollout/completions_min": float(min(sizes)),
        "rollout/completions_max": float(max(sizes)),
        "rollout/tokens_min": float(lengths.min()),
        "rollout/tokens_max": float(lengths.max()),
        "rollout/truncated_fraction": float((~finished).float().mean()),
        "rollout/all_correct_fraction": float((accuracy == 1).float().mean()),
        "rollout/all_wrong_fraction": float((accuracy == 0).float().mean()),
        "rollout/tokens_per_second": (float(lengths.sum()) + unused)
        / max(batch.timings.get("generate", 0.0), 1e-9),
        "rollout/dropped_groups": float(len(batch.dropped)),
        "rollout/sampling_rounds": float(batch.sampling_rounds),
        "reward/mean": float(rewards.mean()),
        "reward/shaping": float((rewards - batch.scores).mean()),
        "reward/std_mean": float(std.mean()),
        "reward/zero_std_fraction": float((std == 0).float().mean()),
    }
    counts = outcome_counts(batch.groups)
    return metrics | {f"reward/outcome_{name}": float(count) for name, count in counts.items()}


def probe_metrics(outcomes: Sequence[GroupOutcome]) -> dict[str, float]:
    """Accuracy and tokens of the probe questions; empty without any."""
    if not outcomes:
        return {}
    lengths = [length for outcome in outcomes for length in outcome.lengths]
    return {
        "probe/accuracy": fmean(outcome.accuracy for outcome in outcomes),
        "probe/tokens_mean": fmean(lengths),
    }


def over_ranks(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One number per name: extremes, counts and throughput as such, the rest as means over the ranks.

    Every rank holds the same number of rows.
    """

    def join(name: str, values: list[float]) -> float:
        if name.endswith("_min"):
            return min(values)
        if name.endswith("_max"):
            return max(values)
        if name.startswith(("reward/outcome_", "rollout/dropped_")) or name.endswith("_per_second"):
            return sum(values)
        return sum(values) / len(values)

    return {name: join(name, [rank[name] for rank in metrics]) for name in metrics[0]}


def row_means(ranks: Sequence[Mapping[str, Float[Tensor, " _"]]]) -> dict[str, float]:
    """Means over the rows of all ranks that are not NaN; NaN where there is none.

    Left out instead of NaN, Lightning would log the value of the step before again.
    """
    means = {}
    for name in ranks[0]:
        rows = torch.cat([rank[name] for rank in ranks])
        count = int((~rows.isnan()).sum())
        means[name] = float(rows.nansum()) / count if count else math.nan
    return means


def objective_metrics(sums: Mapping[str, float], updates: int) -> dict[str, float]:
    """`loss/` means per response token, whatever the aggregation, from `policy_objective`'s sums.

    Entropies (nats) are means over their own tokens: of all, hard and easy questions. Clipping is a
    share of tokens. A mean over no token (no hard question in the step) is NaN.
    """
    tokens = sums["tokens"]
    metrics = {
        "loss/policy": sums["policy_loss"] / tokens,
        "optimizer/grad_norm": sums["grad_norm"] / updates,
        "rollout/tokens_total": tokens,
        "engine/mismatch_kl": sums["mismatch_kl"] / tokens,
    }
    for name in ("kl", "ratio", "ppo_kl", "abs_log_ratio", "entropy", "entropy_bonus"):
        if name in sums:
            metrics[f"loss/{name}"] = sums[name] / tokens
    for name in ("clipped_high", "clipped_low", "dual_clipped", "importance_truncated"):
        metrics[f"loss/{name}_fraction"] = sums[name] / tokens
    for part in ("hard", "easy"):
        count = sums[f"tokens_{part}"]
        metrics[f"loss/entropy_{part}"] = sums[f"entropy_{part}"] / count if count else math.nan
    return metrics


def add_to(sums: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Adds `more` to `sums` in place, name by name."""
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value
