"""Aggregation: three ways to make per-token terms a loss, by hand, by a slow loop, however it is split."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ceeh.config.settings import Objective
from ceeh.fit import fit
from ceeh.modules.aggregation import denominator_shares, reduce_tokens, row_weights
from ceeh.modules.objective import policy_objective
from tests.modules.test_policy_objective import rollouts
from tests.test_fit import rows, small

KINDS = ["token_mean", "sequence_mean", "constant"]
BUDGET = 10


def aggregated(terms: Tensor, mask: Tensor, kind: str, denominator: Tensor | None = None) -> Tensor:
    if denominator is None:
        denominator = shares(mask, kind).sum()
    return reduce_tokens(terms, mask, row_weights(mask, kind), denominator=denominator)


def shares(mask: Tensor, kind: str) -> Tensor:
    return denominator_shares(mask.sum(1), kind, max_response_tokens=BUDGET)


def ragged(seed: int) -> tuple[Tensor, Tensor]:
    given = rollouts(seed)
    return given["advantages"][:, None] * given["entropy"], given["mask"]


def reference(terms: Tensor, mask: Tensor, kind: str) -> float:
    """One python loop over rows."""
    responses = [
        [term for term, inside in zip(*pair, strict=True) if inside]
        for pair in zip(terms.tolist(), mask.tolist(), strict=True)
    ]
    if kind == "sequence_mean":
        return sum(sum(each) / len(each) for each in responses) / len(responses)
    tokens = sum(len(each) for each in responses)
    total = sum(sum(each) for each in responses)
    return total / (tokens if kind == "token_mean" else len(responses) * BUDGET)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Responses 1, 2, 3 and 8; the 9s are outside. (1 + 2 + 3 + 8) / 4.
        ("token_mean", 3.5),
        # ((1 + 2 + 3) / 3 + 8 / 1) / 2.
        ("sequence_mean", 5.0),
        # 14 / (2 rows * 10 tokens).
        ("constant", 0.7),
    ],
)
def test_literal_case(kind: str, expected: float):
    terms = torch.tensor([[1.0, 2.0, 3.0, 9.0], [9.0, 8.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0]]).bool()
    assert aggregated(terms, mask, kind).item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_a_slow_loop(kind: str, seed: int):
    terms, mask = ragged(seed)
    assert aggregated(terms, mask, kind).item() == pytest.approx(reference(terms, mask, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_split_order_and_padding_change_nothing(kind: str):
    terms, mask = ragged(5)
    whole = aggregated(terms, mask, kind)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    total = sum(shares(mask[part], kind).sum() for part in order.split([3, 5]))
    for cuts in ([8], [1, 5, 2], [1] * 8):
        parts = [
            aggregated(terms[part], mask[part], kind, torch.as_tensor(total))
            for part in order.split(cuts)
        ]
        torch.testing.assert_close(torch.stack(parts).sum(), whole)
    padded = [torch.nn.functional.pad(each, (0, 3), value=1) for each in (terms, mask)]
    padded[1][:, -3:] = False
    torch.testing.assert_close(aggregated(padded[0], padded[1], kind), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_policy_loss_kl_and_entropy_bonus_all_get_the_gradient_of_their_rows_weight(kind: str):
    """Against token sums: each row's gradient is w_i / D times that of its plain sum."""
    settings = replace(Objective(), aggregation=kind, kl_coefficient=0.1)
    sums = replace(settings, aggregation="token_mean")
    gradients = []
    for chosen in (settings, sums):
        given = rollouts(6)
        leaves = [given[name].requires_grad_() for name in ("logprobs", "entropy")]
        logprobs, entropy = given.pop("logprobs"), given.pop("entropy")
        terms = policy_objective(
            logprobs,
            entropy,
            **given,
            weights=row_weights(given["mask"], chosen.aggregation),
            denominator=1.0,
            settings=chosen,
            anneal=1.0,
        )
        gradients.append(torch.autograd.grad(terms.loss, leaves))
    mask = rollouts(6)["mask"]
    weight = 1 / mask.sum(1, keepdim=True) if kind == "sequence_mean" else 1.0
    for weighted, plain in zip(*gradients, strict=True):
        assert plain[mask].any()
        torch.testing.assert_close(weighted, weight * plain)


def test_a_response_without_tokens_counts_as_a_response():
    # An aborted request may have none: (0 + (2 + 4) / 2) / 2.
    terms, mask = torch.tensor([[5.0, 5.0], [2.0, 4.0]]), torch.tensor([[0, 0], [1, 1]]).bool()
    assert aggregated(terms, mask, "sequence_mean").item() == 1.5


def test_another_kind_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"objective\.aggregation must be one of .* got 'sum'"):
        shares(torch.ones(1, 1).bool(), "sum")


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_fit_the_micro_batch_split_changes_no_gradient(
    tiny_model_dir: Path, tmp_path: Path, kind: str
) -> None:
    once = (
        "rollouts.steps=1",
        "optimizer.prompts_per_minibatch=4",
        f"objective.aggregation={kind}",
    )
    norms = []
    for budget in (16384, 40):
        output = tmp_path / str(budget)
        given = (*once, f"optimizer.tokens_per_microbatch={budget}")
        folder = fit(small(tiny_model_dir, output, *given))
        norms += [row["optimizer/grad_norm"] for row in rows(folder) if "loss/policy" in row]
    assert norms[0] > 0
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
