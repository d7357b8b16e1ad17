"""A run's summary: tuned against base on all, easy and hard questions."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ceeh.evaluation.bootstrap import differences, estimates, interval
from ceeh.evaluation.metrics import pass_at_k
from ceeh.evaluation.samples import SampleTable


def summarize(
    base: SampleTable,
    tuned: SampleTable,
    hard: Bool[Tensor, " Q"],
    *,
    k: int,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Tuned against base, every metric with a 95 % interval, differences paired by question.

    Returns {"base": {"all": {"accuracy": {"value", "low", "high"}, "tokens", "pass_at_<k>",
    "entropy"}, "easy", "hard"}, "tuned": likewise, "difference": tuned - base, where tokens are
    "tokens_relative", tuned / base - 1, "questions": counts, "samples": K}. Metrics of an empty
    subset are None. Accuracy and pass@k in [0, 1], tokens per response, entropy in nats per token.
    Raises ValueError when the tables hold other questions or sample counts, or k > K.
    """
    if not torch.equal(base.index, tuned.index) or base.samples != tuned.samples:
        raise ValueError("base and tuned must hold the same questions, with as many samples each")
    pass_at_k(0, base.samples, k)  # its error for k > K
    names = ("accuracy", "tokens", f"pass_at_{k}", "entropy")
    changes = ("accuracy", "tokens_relative", *names[2:])
    subsets = {"all": torch.ones_like(hard), "easy": ~hard, "hard": hard}
    summary: dict[str, Any] = {"base": {}, "tuned": {}, "difference": {}}
    for subset, chosen in subsets.items():
        before, after = (
            estimates(table.rows(chosen), draws=draws, seed=seed) for table in (base, tuned)
        )
        change = differences(before, after)
        summary["base"][subset] = {name: interval(before[name]) for name in names}
        summary["tuned"][subset] = {name: interval(after[name]) for name in names}
        summary["difference"][subset] = {name: interval(change[name]) for name in changes}
    summary["questions"] = {subset: int(chosen.sum()) for subset, chosen in subsets.items()}
    return summary | {"samples": base.samples}
