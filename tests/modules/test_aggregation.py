"""Aggregation: three ways from per-token terms to one loss, by hand, by a slow loop, however split."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.config.objective import Objective
from ceeh.modules.aggregation import denominator_shares, reduce_tokens, row_weights
from tests.modules.test_policy_objective import objective, rollouts

KINDS = ["token_mean", "sequence_mean", "constant"]
MAX_TOKENS = 10


def shares(responses: list[list[float]], kind: str) -> Tensor:
    lengths = torch.tensor([len(each) for each in responses])
    return denominator_shares(lengths, kind, max_response_tokens=MAX_TOKENS)


def aggregated(responses: list[list[float]], kind: str, denominator: Tensor | None = None) -> float:
    """The loss of the terms of each response, all tokens in one row."""
    lengths = torch.tensor([len(each) for each in responses])
    terms = torch.tensor([term for each in responses for term in each], dtype=torch.float64)
    weights = row_weights(lengths, kind).repeat_interleave(lengths)
    whole = shares(responses, kind).sum() if denominator is None else denominator
    return reduce_tokens(terms, weights, denominator=whole).item()


def ragged(seed: int, count: int = 8) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (count,), generator=generator).tolist()
    return [torch.randn(n, generator=generator, dtype=torch.float64).tolist() for n in lengths]


def reference(responses: list[list[float]], kind: str) -> float:
    if kind == "sequence_mean":
        return sum(sum(each) / len(each) for each in responses) / len(responses)
    tokens = sum(len(each) for each in responses)
    total = sum(sum(each) for each in responses)
    return total / (tokens if kind == "token_mean" else len(responses) * MAX_TOKENS)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("token_mean", 3.5),  # (1 + 2 + 3 + 8) / 4
        ("sequence_mean", 5.0),  # ((1 + 2 + 3) / 3 + 8 / 1) / 2
        ("constant", 0.7),  # 14 / (2 rows * 10 tokens)
    ],
)
def test_literal_case(kind: str, expected: float):
    assert aggregated([[1.0, 2.0, 3.0], [8.0]], kind) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_a_slow_loop_however_rows_are_ordered_and_split(kind: str):
    for seed in range(4):
        responses = ragged(seed)
        whole = reference(responses, kind)
        assert aggregated(responses, kind) == pytest.approx(whole)
        denominator = shares(responses, kind).sum()
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        for cuts in ([8], [1, 5, 2], [1] * 8):
            parts = [[responses[row] for row in part.tolist()] for part in order.split(cuts)]
            split = sum(aggregated(part, kind, denominator) for part in parts)
            assert split == pytest.approx(whole)


def test_policy_loss_kl_and_entropy_bonus_all_get_the_gradient_of_their_rows_weight():
    """Each token's gradient is w times the one that it has with a weight of 1."""
    gradients, (logprobs, entropy, sampled) = [], rollouts(6)
    leaves = [logprobs.requires_grad_(), entropy.requires_grad_()]
    for weights in (sampled.weights, torch.ones_like(sampled.weights)):
        given = (logprobs, entropy, replace(sampled, weights=weights))
        terms = objective(given, replace(Objective(), kl_coefficient=0.1))
        gradients.append(torch.autograd.grad(terms.loss, leaves))
    for weighted, plain in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(weighted, sampled.weights * plain)


def test_a_response_without_tokens_counts_as_a_response():
    # An aborted request may have none: (0 + (2 + 4) / 2) / 2.
    assert aggregated([[], [2.0, 4.0]], "sequence_mean") == 1.5


def test_another_kind_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"objective\.aggregation must be one of .* got 'sum'"):
        shares([[1.0]], "sum")
