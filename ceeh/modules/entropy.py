"""Who gets how much entropy bonus: a weight per row, and the tokens that carry it.

"The paper" is Luo et al., https://arxiv.org/abs/2602.22642. Axes: R rollout rows, T tokens of a row.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.config.objective import Entropy


def entropy_anneal(progress: float, kind: str, end: float = 1.0) -> float:
    """(1 + cos(pi p)) / 2 for `cosine`, 1 - p for `linear`, 1 for `none`; 0 from p = 1 on.

    p = progress / end, progress = t / T in [0, 1). The paper prints cos(pi t / T), which turns
    negative halfway; its released code has this form.
    """
    p = progress / end
    if p >= 1:
        return 0.0
    return {"cosine": (1 + math.cos(math.pi * p)) / 2, "linear": 1 - p, "none": 1.0}[kind]


def me_weights(
    hard: Float[Tensor, " R"],
    coefficient: Float[Tensor, " R"] | float,
    *,
    hard_factor: float,
    easy_factor: float,
    anneal: float,
) -> Float[Tensor, " R"]:
    """lambda = coefficient anneal (easy_factor + (hard_factor - easy_factor) hard), for -lambda H.

    `hard` is 1 for hard questions, 0 for others; values between interpolate. Factors 5 and 1: the
    paper's eq. 5 and 11, variant ME; equal factors: a uniform bonus.
    """
    return coefficient * anneal * (easy_factor + (hard_factor - easy_factor) * hard)


def entropy_weights(
    hard: Float[Tensor, " R"],
    coefficient: Float[Tensor, " R"] | float,
    lengths: Int[Tensor, " R"],
    *,
    settings: Entropy,
    anneal: float,
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> Float[Tensor, " R"]:
    """lambda of each row: `me_weights` with the factors of `settings.method`, 0 without a bonus in the loss.

    `uniform_mean` spends what `me` spends, evenly: sum_i lambda_i |y_i| / sum_i |y_i| over the rows of the
    rollout step, on all ranks (`total` sums over them). Equal sums need `aggregation: token_mean` and
    `top_fraction: 1`: sequence_mean weights a row's tokens by 1 / |y_i|.
    """
    hard_factor, easy_factor = {
        "me": (settings.hard_factor, 1.0),
        "hard_only": (settings.hard_factor, 0.0),
        "uniform": (1.0, 1.0),
        "uniform_mean": (settings.hard_factor, 1.0),
    }.get(settings.method, (0.0, 0.0))
    weights = me_weights(
        hard, coefficient, hard_factor=hard_factor, easy_factor=easy_factor, anneal=anneal
    )
    if settings.method == "uniform_mean":
        mean = total((weights * lengths).sum()) / total(lengths.sum())
        weights = mean.to(weights).expand_as(weights)
    return weights


def ea_mask(hard: Float[Tensor, " R"], method: str) -> Float[Tensor, " R"]:
    """1 for rows whose advantages get `ea_advantages`' bonus: the hard ones, or all under `ea_all`."""
    return {"ea": hard, "ea_all": torch.ones_like(hard)}.get(method, torch.zeros_like(hard))


def top_entropy_tokens(
    entropy: Float[Tensor, "R T"], response_mask: Bool[Tensor, "R T"], fraction: float
) -> Bool[Tensor, "R T"]:
    """The ceil(fraction |y_i|) response tokens of highest entropy of each row; of equal ones the first.

    Chosen per response, so that micro-batches and ranks change nothing, and hard questions, whose
    entropy is higher, do not take the tokens of others. Wang et al.,
    https://arxiv.org/abs/2506.01939, choose per batch, and mask the policy gradient instead of a bonus.
    """
    ranked = entropy.masked_fill(~response_mask, -math.inf).argsort(
        dim=1, descending=True, stable=True
    )
    # 0.07 * 100 is 7.000000000000001.
    count = (response_mask.sum(1).double() * fraction - 1e-6).ceil()
    return (ranked.argsort(1) < count[:, None]) & response_mask
