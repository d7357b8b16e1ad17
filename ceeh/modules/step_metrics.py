"""Numbers of one rollout step, named once: `rollout/` and `reward/` of the batch, `loss/`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul

import torch
from jaxtyping import Float
from torch import Tensor

from ceeh.data.verify import outcome_counts
from ceeh.types import RolloutBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class RankNumbers:
    """What one rank has to say of a step: figures of its batch, sums over its rows and its tokens."""

    batch: Mapping[str, float]
    rows: Mapping[str, tuple[float, int]]
    tokens: Mapping[str, float]


def joined(ranks: Sequence[RankNumbers], updates: int) -> dict[str, float]:
    """The step's figures over all ranks: each kind joined so that the number of ranks does not show."""
    total: dict[str, float] = {}
    for rank in ranks:
        add_to(total, rank.tokens)
    # Every rank sees the norm of the same gradient.
    total["grad_norm"] = ranks[0].tokens["grad_norm"]
    return (
        over_ranks([rank.batch for rank in ranks])
        | row_means([rank.rows for rank in ranks], "reward/")
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
    for name, selected in (("correct", batch.correct), ("wrong", ~batch.correct)):
        if bool(selected.any()):
            metrics[f"rollout/tokens_{name}"] = float(lengths[selected].mean())
    counts = outcome_counts(batch.groups)
    return metrics | {f"reward/outcome_{name}": float(count) for name, count in counts.items()}


def over_ranks(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One number per name: extremes, counts and throughput as such, the rest as means over the ranks.

    Ranks hold as many rows each, of which a share `rollout/accuracy` is correct: means over correct
    or wrong responses are weighted by it.
    """
    joined = {}
    for name in dict.fromkeys(name for rank in metrics for name in rank):
        having = [rank for rank in metrics if name in rank]
        values = [rank[name] for rank in having]
        if name.endswith("_min"):
            joined[name] = min(values)
        elif name.endswith("_max"):
            joined[name] = max(values)
        elif name.startswith(("reward/outcome_", "rollout/dropped_")) or name.endswith(
            "_per_second"
        ):
            joined[name] = sum(values)
        else:
            weights = [1.0] * len(values)
            if name == "rollout/tokens_correct":
                weights = [rank["rollout/accuracy"] for rank in having]
            elif name == "rollout/tokens_wrong":
                weights = [1 - rank["rollout/accuracy"] for rank in having]
            joined[name] = sum(map(mul, weights, values)) / sum(weights)
    return joined


def row_sums(values: Mapping[str, Float[Tensor, " R"]]) -> dict[str, tuple[float, int]]:
    """Sum and number of each name's rows that are not NaN."""
    return {
        name: (float(rows.nansum()), int((~rows.isnan()).sum())) for name, rows in values.items()
    }


def row_means(ranks: Iterable[Mapping[str, tuple[float, int]]], prefix: str) -> dict[str, float]:
    """Means over the rows of all ranks of what `row_sums` gave; a mean over no row is left out."""
    totals: dict[str, tuple[float, int]] = {}
    for rank in ranks:
        for name, (total, count) in rank.items():
            so_far, rows = totals.get(name, (0.0, 0))
            totals[name] = (so_far + total, rows + count)
    return {f"{prefix}{name}": total / rows for name, (total, rows) in totals.items() if rows}


def objective_metrics(sums: Mapping[str, float], updates: int) -> dict[str, float]:
    """`loss/` means per response token of the sums that `policy_objective` returned.

    Entropies (nats) are means over their own tokens: all, hard and easy questions'. Clipping is a share
    of tokens. A mean over no token (no hard question in the step) is left out.
    """
    tokens = sums["tokens"]
    metrics = {
        "loss/policy": sums["policy_loss"] / tokens,
        "optimizer/grad_norm": sums["grad_norm"] / updates,
    }
    metrics["engine/mismatch_kl"] = sums["mismatch_kl"] / tokens
    for name in ("kl", "ratio", "entropy", "entropy_bonus"):
        if name in sums:
            metrics[f"loss/{name}"] = sums[name] / tokens
    for name in ("clipped_high", "clipped_low", "dual_clipped", "importance_truncated"):
        metrics[f"loss/{name}_fraction"] = sums[name] / tokens
    for part in ("hard", "easy"):
        if sums[f"tokens_{part}"] > 0:
            metrics[f"loss/entropy_{part}"] = sums[f"entropy_{part}"] / sums[f"tokens_{part}"]
    return metrics


def add_to(sums: dict[str, float], more: Mapping[str, float]) -> None:
    """Adds `more` to `sums` in place, name by name."""
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value
