"""Numbers of one rollout step, named once: `rollout/` and `reward/` of the batch, `loss/`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ceeh.data.batch import RolloutBatch
from ceeh.data.verify.base import outcome_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class RankNumbers:
    """What one rank has to say of a step: figures of its batch, sums over its rows and its tokens."""

    batch: Mapping[str, float]
    rows: Mapping[str, tuple[float, int]]
    tokens: Mapping[str, float]

    @classmethod
    def of(
        cls,
        batch: RolloutBatch,
        rewards: Float[Tensor, " R"],
        shaping: Mapping[str, Float[Tensor, " R"]],
        tokens: Mapping[str, float],
    ) -> "RankNumbers":
        """`shaping` are the numbers that a shaping has of its own, `tokens` the objective's sums."""
        seconds = {f"time/{name}": value for name, value in batch.timings.items()}
        rows = lengths_by_outcome(batch) | {f"reward/{name}": shaping[name] for name in shaping}
        return cls(
            batch=rollout_metrics(batch, rewards) | seconds, rows=row_sums(rows), tokens=tokens
        )


def joined(ranks: Sequence[RankNumbers], updates: int) -> dict[str, float]:
    """The step's figures over all ranks: each kind joined so that the number of ranks does not show."""
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
    unused = sum(sum(outcome.lengths) for outcome in batch.dropped)
    metrics = {
        "rollout/accuracy": float(batch.correct.float().mean()),
        "rollout/tokens_mean": float(lengths.mean()),
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
    }
    counts = outcome_counts(batch.groups)
    return metrics | {f"reward/outcome_{name}": float(count) for name, count in counts.items()}


def over_ranks(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One number per name: extremes, counts and throughput as such, the rest as means over the ranks.

    Ranks hold as many rows each.
    """
    joined = {}
    for name in metrics[0]:
        values = [rank[name] for rank in metrics]
        if name.endswith("_min"):
            joined[name] = min(values)
        elif name.endswith("_max"):
            joined[name] = max(values)
        elif name.startswith(("reward/outcome_", "rollout/dropped_")) or name.endswith(
            "_per_second"
        ):
            joined[name] = sum(values)
        else:
            joined[name] = sum(values) / len(values)
    return joined


def lengths_by_outcome(batch: RolloutBatch) -> dict[str, Float[Tensor, " R"]]:
    """`rollout/tokens_correct` and `rollout/tokens_wrong`: each row's length in one, NaN in the other."""
    lengths = batch.lengths.float()
    return {
        "rollout/tokens_correct": torch.where(batch.correct, lengths, torch.nan),
        "rollout/tokens_wrong": torch.where(batch.correct, torch.nan, lengths),
    }


def row_sums(values: Mapping[str, Float[Tensor, " R"]]) -> dict[str, tuple[float, int]]:
    """Sum and number of each name's rows that are not NaN."""
    return {
        name: (float(rows.nansum()), int((~rows.isnan()).sum())) for name, rows in values.items()
    }


def row_means(ranks: Sequence[Mapping[str, tuple[float, int]]]) -> dict[str, float]:
    """Means over the rows of all ranks of what `row_sums` gave; NaN for a mean over no row.

    NaN and not left out: Lightning would log a name that is missing with its value of the step before.
    """
    means = {}
    for name in ranks[0]:
        total, count = (sum(rank[name][part] for rank in ranks) for part in (0, 1))
        means[name] = total / count if count else math.nan
    return means


def objective_metrics(sums: Mapping[str, float], updates: int) -> dict[str, float]:
    """`loss/` means per response token, by any aggregation, of the sums that `policy_objective` returned.

    Entropies (nats) are means over their own tokens: all, hard and easy questions'. Clipping is a share
    of tokens. A mean over no token (no hard question in the step) is NaN.
    """
    tokens = sums["tokens"]
    metrics = {
        "loss/policy": sums["policy_loss"] / tokens,
        "optimizer/grad_norm": sums["grad_norm"] / updates,
        "rollout/tokens_total": tokens,
    }
    metrics["engine/mismatch_kl"] = sums["mismatch_kl"] / tokens
    for name in ("kl", "ratio", "entropy", "entropy_bonus"):
        if name in sums:
            metrics[f"loss/{name}"] = sums[name] / tokens
    for name in ("clipped_high", "clipped_low", "dual_clipped", "importance_truncated"):
        metrics[f"loss/{name}_fraction"] = sums[name] / tokens
    for part in ("hard", "easy"):
        count = sums[f"tokens_{part}"]
        metrics[f"loss/entropy_{part}"] = sums[f"entropy_{part}"] / count if count else math.nan
    return metrics


def add_to(sums: dict[str, float], more: Mapping[str, float]) -> None:
    """Adds `more` to `sums` in place, name by name."""
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value
