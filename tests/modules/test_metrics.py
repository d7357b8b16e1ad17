"""Metrics of a step: easy and hard apart, over all ranks."""

import math

import pytest
import torch

from ceeh.modules.metrics import RankMetrics, join_ranks, probe_metrics
from tests.callbacks.conftest import make_batch

TOKENS = ("tokens", "tokens_hard", "tokens_easy", "entropy_hard", "entropy_easy", "policy_loss")
CLIPPED = ("clipped_high", "clipped_low", "dual_clipped", "importance_truncated")
SUMS = dict.fromkeys((*TOKENS, *CLIPPED, "mismatch_kl", "grad_norm"), 1.0)


def joined(*ranks: tuple[list[tuple[bool, int]], list[float]]) -> dict[str, float]:
    """The metrics of ranks with the (correct, length) rows of one group and each row's `hard`."""
    parts = []
    for rows, hard in ranks:
        batch = make_batch(("a", rows))
        parts.append(RankMetrics.of(batch, batch.scores, torch.tensor(hard), {}, SUMS))
    return join_ranks(parts, updates=1)


def test_accuracy_and_length_of_easy_and_hard_questions_are_means_over_their_rows() -> None:
    found = joined(
        ([(True, 2), (False, 9)], [0.0, 1.0]),
        ([(True, 4), (False, 6)], [0.0, 0.0]),
    )
    # Easy: 2, 4 and 6 tokens, two of three correct. Hard: 9 tokens, not correct.
    names = ("accuracy_easy", "tokens_easy", "accuracy_hard", "tokens_hard")
    assert [found[f"rollout/{name}"] for name in names] == pytest.approx([2 / 3, 4, 0, 9])
    # The parts, weighted by their rows, are the whole.
    assert (3 * found["rollout/tokens_easy"] + found["rollout/tokens_hard"]) / 4 == pytest.approx(
        found["rollout/tokens_mean"]
    )


def test_a_probe_counts_questions_alike_and_its_tokens_over_responses() -> None:
    batch = make_batch(("a", [(True, 2), (False, 9)]), ("b", [(True, 4)]))
    found = probe_metrics(batch.outcomes)
    assert found == pytest.approx({"probe/accuracy": 0.75, "probe/tokens_mean": 5.0})
    assert probe_metrics([]) == {}


def test_a_step_without_hard_questions_measures_none() -> None:
    found = joined(([(True, 2)], [0.0]))
    assert math.isnan(found["rollout/accuracy_hard"])
    assert math.isnan(found["rollout/tokens_hard"])
