"""Advantages by comparison within a group: the four baselines."""

import math

import pytest
import torch
from torch import Tensor

from ceeh.modules.advantages import group_advantages, group_mean

KINDS = ["group_mean", "group_std", "leave_one_out", "batch_std"]


def reference_advantages(rewards: list[float], group: list[int], kind: str) -> list[float]:
    centred, members = [], []
    for mine, prompt in zip(rewards, group, strict=True):
        same = [r for r, other in zip(rewards, group, strict=True) if other == prompt]
        centred.append(mine - sum(same) / len(same))
        members.append(same)
    if kind == "group_mean":
        return centred
    if kind == "batch_std":
        std = math.sqrt(sum(c * c for c in centred) / (len(centred) - 1))
        return [c / (std + 1e-6) for c in centred]
    result = []
    for mine, same in zip(rewards, members, strict=True):
        n, mean = len(same), sum(same) / len(same)
        if n == 1:
            result.append(0.0)
        elif kind == "leave_one_out":
            result.append(mine - (sum(same) - mine) / (n - 1))
        else:
            std = math.sqrt(sum((r - mean) ** 2 for r in same) / (n - 1))
            result.append((mine - mean) / (std + 1e-6))
    return result


def ragged(seed: int, num_prompts: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 7, (num_prompts,), generator=generator)
    group = torch.arange(num_prompts).repeat_interleave(sizes)
    order = torch.randperm(len(group), generator=generator)
    rewards = torch.randn(len(group), generator=generator, dtype=torch.float64)
    return rewards, group[order]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Rewards 1, 0, 0.5 and, of the other prompt, 1, 0. Means 0.5 and 0.5.
        ("group_mean", [0.5, -0.5, 0.0, 0.5, -0.5]),
        # Others' means: 0.25, 0.75, 0.5; 0, 1.
        ("leave_one_out", [0.75, -0.75, 0.0, 1.0, -1.0]),
        # Variances (n - 1): (0.25 + 0.25) / 2 = 0.25, std 0.5; (0.25 + 0.25) / 1, std 0.70711.
        ("group_std", [1.0, -1.0, 0.0, 0.70711, -0.70711]),
        # Of all five: (4 * 0.25) / 4 = 0.25, std 0.5.
        ("batch_std", [1.0, -1.0, 0.0, 1.0, -1.0]),
    ],
)
def test_literal_case(kind: str, expected: list[float]):
    rewards = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])
    advantages = group_advantages(rewards, torch.tensor([0, 0, 0, 1, 1]), 2, kind=kind)
    # The 1e-6 beside the std moves the fifth digit.
    torch.testing.assert_close(advantages, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_slow_loop_for_groups_of_any_size_in_any_order(kind: str, seed: int):
    rewards, group = ragged(seed)
    advantages = group_advantages(rewards, group, 5, kind=kind)
    expected = reference_advantages(rewards.tolist(), group.tolist(), kind)
    torch.testing.assert_close(advantages.tolist(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_row_order_does_not_matter(kind: str):
    rewards, group = ragged(7)
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
    advantages = group_advantages(rewards, group, 5, kind=kind)
    reordered = group_advantages(rewards[order], group[order], 5, kind=kind)
    torch.testing.assert_close(reordered, advantages[order])


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_and_single_responses_get_exactly_zero(kind: str):
    # In fp32 twelve times 0.9 has a mean beside 0.9: divided by a std of 0 + 1e-6 it would be 0.06.
    rewards = torch.tensor([0.9] * 12 + [0.3])
    group = torch.tensor([0] * 12 + [1])
    advantages = group_advantages(rewards, group, 2, kind=kind)
    assert advantages.tolist() == [0.0] * 13


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_the_rewards_dtype_and_survives_a_prompt_without_rows(kind: str):
    rewards = torch.tensor([1.0, 0.0])
    advantages = group_advantages(rewards, torch.tensor([2, 2]), 4, kind=kind)
    assert advantages.dtype == torch.float32
    assert advantages[0] == -advantages[1] > 0


@pytest.mark.parametrize("kind", ["group_mean", "leave_one_out"])
def test_without_std_the_size_of_a_length_term_survives(kind: str):
    # Division by the std would make the two alike.
    group = torch.tensor([0, 0])
    small = group_advantages(torch.tensor([1.0, 0.9]), group, 1, kind=kind)
    large = group_advantages(torch.tensor([1.0, 0.8]), group, 1, kind=kind)
    torch.testing.assert_close(large, 2 * small)


def test_an_unknown_kind_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"objective\.advantage .* leave_one_out.* got 'median'"):
        group_advantages(torch.zeros(2), torch.tensor([0, 0]), 1, kind="median")


def test_group_mean_counts_booleans_and_knows_no_mean_of_nothing():
    # Prompt 0: one of two; prompt 1: no row; prompt 2: one of one.
    means = group_mean(torch.tensor([True, True, False]), torch.tensor([0, 2, 0]), 3)
    assert means[[0, 2]].tolist() == [0.5, 1.0]
    assert means[1].isnan()
