"""Metrics of a step: easy and hard apart, over all ranks."""

import math

import pytest
import torch

from ceeh.config.objective import Objective
from ceeh.modules.metrics import (
    RankMetrics,
    add_to,
    join_ranks,
    objective_metrics,
    probe_metrics,
    rollout_metrics,
)
from ceeh.modules.objective import SampledTokens, policy_objective
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


def test_the_spread_of_rewards_is_that_within_groups() -> None:
    rewards = {"a": [0.1, 0.1, 0.1], "b": [1.0, 0.0], "c": [0.7, 0.7], "d": [0.5, 0.9, 0.1]}
    batch = make_batch(*((uid, [(False, 2)] * len(values)) for uid, values in rewards.items()))
    found = rollout_metrics(batch, torch.tensor([r for each in rewards.values() for r in each]))
    # a and c have equal rewards: 2 of 4 groups. b: sqrt(2 x 0.5^2 / 1). d: sqrt(2 x 0.4^2 / 2).
    assert found["reward/zero_std_fraction"] == 0.5
    assert found["reward/std_mean"] == pytest.approx((0 + math.sqrt(0.5) + 0 + 0.4) / 4)


def test_ranks_join_the_spread_of_their_groups() -> None:
    # On the first rank 1 and 0: std sqrt(0.5). On the second 1 and 1.
    found = joined(([(True, 2), (False, 9)], [0.0, 0.0]), ([(True, 4), (True, 6)], [0.0, 0.0]))
    assert found["reward/zero_std_fraction"] == 0.5
    assert found["reward/std_mean"] == pytest.approx(math.sqrt(0.5) / 2)


def test_the_distance_from_the_old_policy_is_a_mean_over_the_tokens_of_all_updates() -> None:
    sampled = SampledTokens(
        old_logprobs=torch.tensor([-1.0, -2.0, -3.0, -1.0]),
        engine_logprobs=torch.zeros(4),
        reference_logprobs=None,
        mean_log_ratio=None,
        importance=torch.ones(4),
        advantages=torch.ones(4),
        hard=torch.zeros(4),
        entropy_weights=torch.zeros(4),
        ea_mask=torch.zeros(4),
        weights=torch.ones(4),
    )
    logprobs = torch.tensor([-1.5, -1.75, -3.0, -2.0])
    sums: dict[str, float] = {}
    for tokens in (slice(0, 1), slice(1, 4)):  # two updates, of one and of three tokens
        terms = policy_objective(
            logprobs[tokens],
            torch.zeros_like(logprobs[tokens]),
            sampled[tokens],
            denominator=1.0,
            settings=Objective(kl_coefficient=0.0),
        )
        add_to(sums, {name: float(value) for name, value in terms.metrics.items()})
    found = objective_metrics(sums | {"grad_norm": 0.0}, updates=2)
    # old - new: 0.5, -0.25, 0, 1.
    assert found["loss/ppo_kl"] == pytest.approx((0.5 - 0.25 + 0 + 1) / 4)
    assert found["loss/abs_log_ratio"] == pytest.approx((0.5 + 0.25 + 0 + 1) / 4)
