"""Advantages by comparison within a group: the five kinds."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from ceeh.modules.advantages import correct_boost, group_advantages, group_mean

KINDS = ["group_mean", "group_std", "leave_one_out", "batch_std"]


def advantages_of(
    rewards: Tensor, group: Tensor, num_prompts: int, *, kind: str, lengths: Tensor | None = None
) -> Tensor:
    """`lengths` matter to `token_whitened` alone."""
    lengths = torch.arange(1, 1 + len(group)) if lengths is None else lengths
    return group_advantages(rewards, group, num_prompts, kind=kind, lengths=lengths)


def reference_advantages(
    rewards: list[float], group: list[int], kind: str, lengths: list[int]
) -> list[float]:
    pairs = list(zip(rewards, group, strict=True))
    members = [[r for r, other in pairs if other == prompt] for _, prompt in pairs]
    centered = [mine - sum(same) / len(same) for mine, same in zip(rewards, members, strict=True)]
    if kind == "group_mean":
        return centered
    if kind == "leave_one_out":
        others = [
            (sum(same) - mine, len(same) - 1) for mine, same in zip(rewards, members, strict=True)
        ]
        return [
            mine - total / n if n else 0.0 for mine, (total, n) in zip(rewards, others, strict=True)
        ]
    if kind == "token_whitened":
        tokens = [c for c, length in zip(centered, lengths, strict=True) for _ in range(length)]
        mean, std = statistics.fmean(tokens), statistics.pstdev(tokens)
        return [(c - mean) / math.sqrt(std**2 + 1e-8) for c in centered]
    of_all = math.sqrt(sum(c * c for c in centered) / (len(centered) - 1))
    stds = [statistics.stdev(same) if len(same) > 1 else 0.0 for same in members]
    return [
        c / ((of_all if kind == "batch_std" else std) + 1e-6)
        for c, std in zip(centered, stds, strict=True)
    ]


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
        # 1, 2, 1, 2 and 4 tokens of 0.5, -0.5, 0, 0.5, -0.5: mean (1.5 - 3) / 10 = -0.15, variance
        # 9 * 0.25 / 10 - 0.0225 = 0.2025, std 0.45: 0.65 / 0.45, -0.35 / 0.45, 0.15 / 0.45.
        ("token_whitened", [1.44444, -0.77778, 0.33333, 1.44444, -0.77778]),
    ],
)
def test_literal_case(kind: str, expected: list[float]):
    rewards = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])
    lengths = torch.tensor([1, 2, 1, 2, 4])
    group = torch.tensor([0, 0, 0, 1, 1])
    advantages = advantages_of(rewards, group, 2, kind=kind, lengths=lengths)
    # The 1e-6 beside the std moves the fifth digit.
    torch.testing.assert_close(advantages, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, "token_whitened"])
def test_agrees_with_a_slow_loop_for_groups_of_any_size_in_any_order(kind: str):
    for seed in range(5):
        rewards, group = ragged(seed)
        lengths = torch.arange(1, 1 + len(group))
        advantages = advantages_of(rewards, group, 5, kind=kind)
        expected = reference_advantages(rewards.tolist(), group.tolist(), kind, lengths.tolist())
        torch.testing.assert_close(advantages.tolist(), expected)
        order = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
        reordered = advantages_of(
            rewards[order], group[order], 5, kind=kind, lengths=lengths[order]
        )
        torch.testing.assert_close(reordered, advantages[order])


@pytest.mark.parametrize("kind", ["batch_std", "token_whitened"])
def test_a_steps_sums_are_over_all_ranks(kind: str):
    """Two ranks with the same rows: each sum is twice this rank's, and the advantages are those of both."""
    rewards, group = ragged(0)
    lengths = torch.arange(1, 1 + len(group))
    both = advantages_of(
        rewards.repeat(2), torch.cat([group, group + 5]), 10, kind=kind, lengths=lengths.repeat(2)
    )
    here = group_advantages(
        rewards, group, 5, kind=kind, lengths=lengths, total=lambda value: 2 * value
    )
    torch.testing.assert_close(here, both[: len(group)])


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_and_single_responses_get_exactly_zero(kind: str):
    # In fp32 the mean of twelve times 0.9 is not 0.9; over a std of 0 + 1e-6 the error would be 0.06.
    rewards, group = torch.tensor([0.9] * 12 + [0.3]), torch.tensor([0] * 12 + [1])
    assert advantages_of(rewards, group, 2, kind=kind).tolist() == [0.0] * 13


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_the_rewards_dtype_and_survives_a_prompt_without_rows(kind: str):
    advantages = advantages_of(torch.tensor([1.0, 0.0]), torch.tensor([2, 2]), 4, kind=kind)
    assert advantages.dtype == torch.float32
    assert advantages[0] == -advantages[1] > 0


@pytest.mark.parametrize("kind", ["group_mean", "leave_one_out"])
def test_without_std_the_size_of_a_length_term_survives(kind: str):
    # Division by the std would make the two alike.
    group = torch.tensor([0, 0])
    small = advantages_of(torch.tensor([1.0, 0.9]), group, 1, kind=kind)
    large = advantages_of(torch.tensor([1.0, 0.8]), group, 1, kind=kind)
    torch.testing.assert_close(large, 2 * small)


def test_an_unknown_kind_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"objective\.advantage .* leave_one_out.* got 'median'"):
        advantages_of(torch.zeros(2), torch.tensor([0, 0]), 1, kind="median")


def test_group_mean_counts_booleans_and_is_nan_without_rows():
    # Prompt 0: one of two; prompt 1: no row; prompt 2: one of one.
    means = group_mean(torch.tensor([True, True, False]), torch.tensor([0, 2, 0]), 3)
    assert means[[0, 2]].tolist() == [0.5, 1.0]
    assert means[1].isnan()


def test_the_boost_is_for_correct_responses_that_are_rewarded():
    # Correct and rewarded; correct but beyond the limit; incorrect; incorrect with a reward of its own.
    correct, rewards = torch.tensor([True, True, False, False]), torch.tensor([1.0, 0.0, 0.0, 0.5])
    assert correct_boost(correct, rewards, 0.25).tolist() == [0.25, 0.0, 0.0, 0.0]
