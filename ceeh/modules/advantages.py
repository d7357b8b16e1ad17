"""Advantages from rewards by comparison within a prompt's group.

Axes: P prompts, R rollout rows. Groups may differ in size and their rows stand in any order.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

STD_EPSILON = 1e-6


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


def group_advantages(
    rewards: Float[Tensor, " R"], group: Int[Tensor, " R"], num_prompts: int, *, kind: str
) -> Float[Tensor, " R"]:
    """One advantage per row, with n the group's size and mean, std over the group:

    - `group_mean`: R_i - mean. CEEH eq. 2 (https://arxiv.org/abs/2602.22642), which leaves the
      division by the std out: it would rescale the length coefficient away. Also Dr. GRPO,
      https://arxiv.org/abs/2503.20783.
    - `group_std`: (R_i - mean) / (std + 1e-6), std with n - 1. GRPO, section 4.1.2,
      https://arxiv.org/abs/2402.03300; n - 1 and 1e-6 as in verl.
    - `leave_one_out`: R_i - mean of the others = (R_i - mean) n / (n - 1). RLOO,
      https://arxiv.org/abs/2402.14740.
    - `batch_std`: (R_i - mean) / (std_batch + 1e-6), std_batch that of all rows' R_i - mean, with
      R - 1. REINFORCE++-baseline, https://arxiv.org/abs/2501.03262; DLER,
      https://arxiv.org/abs/2510.15110. The batch is the rows given: one rank's rollout step.

    A group of one, or of equal rewards, gets exactly 0 by every kind.
    Raises ValueError for another `kind`.
    """
    # In float64 equal fp32 rewards center to exactly 0: a rounding error would be blown up by the
    # division by a std of 0 + 1e-6.
    centred = rewards.double() - group_mean(rewards, group, num_prompts)[group]
    sizes = group_sum(torch.ones_like(group), group, num_prompts)
    others = (sizes - 1).clamp(min=1)
    match kind:
        case "group_mean":
            advantages = centred
        case "group_std":
            std = (group_sum(centred.square(), group, num_prompts) / others).sqrt()
            advantages = centred / (std[group] + STD_EPSILON)
        case "leave_one_out":
            advantages = centred * (sizes / others)[group]
        case "batch_std":
            std = (centred.square().sum() / max(1, len(centred) - 1)).sqrt()
            advantages = centred / (std + STD_EPSILON)
        case _:
            raise ValueError(
                "objective.advantage must be one of group_mean, group_std, leave_one_out, "
                f"batch_std, got '{kind}'"
            )
    return advantages.to(rewards.dtype)
