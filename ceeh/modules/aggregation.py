"""How per-token terms become one loss: a weight per row over one denominator per optimizer step.

    loss = sum_i w_i sum_t l_it / D,   D = sum_i d_i over all rows of the optimizer step, on all ranks

With |y_i| the response tokens of row i and M = `rollouts.max_response_tokens`:

    token_mean      w_i = 1          d_i = |y_i|   every token counts the same
    sequence_mean   w_i = 1 / |y_i|  d_i = 1       every response counts the same
    constant        w_i = 1          d_i = M       every token counts the same, also across steps

Numerator and D are sums over rows, so micro-batches, row order and ranks change nothing.
Axes: R rollout rows, N response tokens.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def row_weights(lengths: Int[Tensor, " R"], kind: str) -> Float[Tensor, " R"]:
    """w_i: 1 / |y_i| for `sequence_mean`, 1 for the others; |y_i| counts as at least 1.

    sequence_mean: GRPO eq. 3, https://arxiv.org/abs/2402.03300, a mean over responses, then over
    questions; the two means are one when all groups have one size.
    """
    lengths = lengths.clamp(min=1).double()
    return 1 / lengths if kind == "sequence_mean" else torch.ones_like(lengths)


def denominator_shares(
    lengths: Int[Tensor, " R"], kind: str, *, max_response_tokens: int
) -> Float[Tensor, " R"]:
    """d_i: what each row adds to the denominator.

    token_mean: DAPO, section 3.3, https://arxiv.org/abs/2503.14476. constant: Dr. GRPO, section 3.2,
    https://arxiv.org/abs/2503.20783, which divides by rows and a fixed number of tokens.
    Raises ValueError for another `kind`.
    """
    match kind:
        case "token_mean":
            return lengths.double()
        case "sequence_mean":
            return torch.ones_like(lengths, dtype=torch.float64)
        case "constant":
            return torch.full_like(lengths, max_response_tokens, dtype=torch.float64)
    raise ValueError(
        f"objective.aggregation must be one of token_mean, sequence_mean, constant, got '{kind}'"
    )


def reduce_tokens(
    terms: Float[Tensor, " N"],
    weights: Float[Tensor, " N"],
    *,
    denominator: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """sum_n w_n l_n / D, with each token's row weight w_n."""
    return (weights.to(terms.dtype) * terms).sum() / denominator
