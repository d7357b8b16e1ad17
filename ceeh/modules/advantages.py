"""Advantages: each reward compared with its prompt's group.

Axes: P prompts, R rollout rows. Groups may differ in size; rows may come in any order.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

STD_EPSILON = 1e-6
VARIANCE_EPSILON = 1e-8


def group_sum(
    values: Shaped[Tensor, " R"], group: Int[Tensor, " R"], num_prompts: int
) -> Float[Tensor, " P"]:
    """Sum of the rows' `values` per prompt, in float64; 0 for a prompt without rows."""
    empty = torch.zeros(num_prompts, dtype=torch.float64, device=values.device)
    return empty.index_add(0, group, values.double())


def group_mean(
    values: Shaped[Tensor, " R"], group: Int[Tensor, " R"], num_prompts: int
) -> Float[Tensor, " P"]:
    """Mean of the rows' `values` per prompt, in float64; NaN for a prompt without rows."""
    sizes = group_sum(torch.ones_like(group), group, num_prompts)
    return group_sum(values, group, num_prompts) / sizes


def group_std(
    rewards: Float[Tensor, " R"], group: Int[Tensor, " R"], num_prompts: int
) -> Float[Tensor, " P"]:
    """Standard deviation of each prompt's rewards, with n - 1; exactly 0 where they are all equal."""
    # In float64 equal fp32 rewards center to exactly 0.
    centered = rewards.double() - group_mean(rewards, group, num_prompts)[group]
    sizes = group_sum(torch.ones_like(group), group, num_prompts)
    return (group_sum(centered.square(), group, num_prompts) / (sizes - 1).clamp(min=1)).sqrt()


def group_advantages(
    rewards: Float[Tensor, " R"],
    group: Int[Tensor, " R"],
    num_prompts: int,
    *,
    kind: str,
    lengths: Int[Tensor, " R"],
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> Float[Tensor, " R"]:
    """One advantage per row, with n the group's size and mean, std over the group:

    - `group_mean`: R_i - mean. CEEH eq. 2 (https://arxiv.org/abs/2602.22642), without division by
      the std, which would cancel the length coefficient. Also Dr. GRPO,
      https://arxiv.org/abs/2503.20783.
    - `group_std`: (R_i - mean) / (std + 1e-6), std with n - 1. GRPO, section 4.1.2,
      https://arxiv.org/abs/2402.03300; n - 1 and 1e-6 as in verl.
    - `leave_one_out`: R_i - mean of the others = (R_i - mean) n / (n - 1). RLOO,
      https://arxiv.org/abs/2402.14740.
    - `batch_std`: (R_i - mean) / (std_batch + 1e-6), std_batch over R_i - mean of the rollout step's rows,
      with R - 1. REINFORCE++-baseline, https://arxiv.org/abs/2501.03262.
    - `token_whitened`: c = R_i - mean, then (c - m) / sqrt(v + 1e-8), with mean m and variance v of c over
      the response tokens (`lengths`) of the rollout step. The released scripts of DLER,
      https://arxiv.org/abs/2510.15110, and Length-Penalty, https://arxiv.org/abs/2502.04463.

    A step's sums are over all ranks: `total` sums over them. Every kind but `token_whitened`, which moves
    all advantages by m, gives exactly 0 to a group of one and to a group of equal rewards.
    Raises ValueError for another `kind`.
    """
    # In float64 equal fp32 rewards center to exactly 0; dividing a rounding error by a std of
    # 0 + 1e-6 would blow it up.
    centered = rewards.double() - group_mean(rewards, group, num_prompts)[group]
    sizes = group_sum(torch.ones_like(group), group, num_prompts)
    others = (sizes - 1).clamp(min=1)
    match kind:
        case "group_mean":
            advantages = centered
        case "group_std":
            std = group_std(rewards, group, num_prompts)
            advantages = centered / (std[group] + STD_EPSILON)
        case "leave_one_out":
            advantages = centered * (sizes / others)[group]
        case "batch_std":
            rows = total(torch.ones_like(centered).sum())
            std = (total(centered.square().sum()) / (rows - 1).clamp(min=1)).sqrt()
            advantages = centered / (std + STD_EPSILON)
        case "token_whitened":
            tokens = total(lengths.double().sum())
            shifted = centered - total((lengths * centered).sum()) / tokens
            variance = total((lengths * shifted.square()).sum()) / tokens
            advantages = shifted / (variance + VARIANCE_EPSILON).sqrt()
        case _:
            raise ValueError(
                "objective.advantage must be one of group_mean, group_std, leave_one_out, "
                f"batch_std, token_whitened, got '{kind}'"
            )
    return advantages.to(rewards.dtype)


def correct_boost(
    correct: Bool[Tensor, " R"], rewards: Float[Tensor, " R"], boost: float
) -> Float[Tensor, " R"]:
    """What DLER's script adds to the advantages: `boost` for correct responses with a positive reward.

    A correct response beyond a length limit, whose reward is 0, gets nothing.
    https://arxiv.org/abs/2510.15110, github.com/NVlabs/DLER.
    """
    return boost * (correct & (rewards > 0)).to(rewards)
