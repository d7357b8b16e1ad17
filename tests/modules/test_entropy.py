"""Who gets the entropy bonus: every method by hand, the anneal, the tokens of highest entropy."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.config.objective import Entropy
from ceeh.modules.entropy import ea_mask, entropy_anneal, entropy_weights, top_entropy_tokens

HARD = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
LENGTHS = torch.tensor([10, 30, 40, 120])


def weights(method: str, **changes: float) -> list[float]:
    settings = replace(Entropy(method=method, hard_factor=5.0), **changes)  # type: ignore[arg-type]
    coefficient = torch.full((4,), 0.001, dtype=torch.float64)
    return entropy_weights(HARD, coefficient, LENGTHS, settings=settings, anneal=0.5).tolist()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # lambda0 * anneal = 0.0005; five times that on hard rows.
        ("me", [0.0025, 0.0025, 0.0005, 0.0005]),
        ("hard_only", [0.0025, 0.0025, 0, 0]),
        ("uniform", [0.0005] * 4),
        # (0.0025 * 40 + 0.0005 * 160) / 200 = 0.18 / 200.
        ("uniform_mean", [0.0009] * 4),
        ("ea", [0] * 4),
        ("ea_all", [0] * 4),
        ("none", [0] * 4),
    ],
)
def test_each_method_by_hand(method: str, expected: list[float]):
    assert weights(method) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("factor", "expected"), [(0.5, [0.00025, 0.0005]), (0.0, [0, 0.0005]), (1.0, [0.0005] * 2)]
)
def test_the_hard_factor_may_be_below_one(factor: float, expected: list[float]):
    assert weights("me", hard_factor=factor)[1:3] == pytest.approx(expected)


def test_uniform_mean_spends_what_me_spends_on_any_batch():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        hard = torch.rand(7, generator=generator, dtype=torch.float64)
        lengths = torch.randint(1, 400, (7,), generator=generator)
        each = torch.rand(7, generator=generator, dtype=torch.float64)
        me, uniform = (
            entropy_weights(hard, each, lengths, settings=Entropy(method=method), anneal=0.3)
            for method in ("me", "uniform_mean")
        )
        torch.testing.assert_close((me * lengths).sum(), (uniform * lengths).sum())
        assert uniform.unique().numel() == 1


def test_the_mean_is_over_all_ranks():
    # Two ranks: this one's sums are doubled by the other's, which has the same rows but no hard one.
    def total(value: Tensor) -> Tensor:
        others = 0.1 if value.is_floating_point() else 200  # 0.0005 * 200; 200 tokens
        return value + others

    got = entropy_weights(
        HARD,
        torch.full_like(HARD, 0.001),
        LENGTHS,
        settings=Entropy(method="uniform_mean"),
        anneal=0.5,
        total=total,
    )
    # (0.18 + 0.1) / 400.
    assert got.tolist() == pytest.approx([0.0007] * 4)


def test_the_coefficient_may_differ_from_row_to_row():
    got = entropy_weights(
        HARD, 0.001 * LENGTHS.double(), LENGTHS, settings=Entropy(method="uniform"), anneal=1.0
    )
    assert got.tolist() == pytest.approx([0.01, 0.03, 0.04, 0.12])


def test_ea_explores_hard_rows_and_ea_all_every_row():
    assert ea_mask(HARD, "ea").tolist() == [1, 1, 0, 0]
    assert ea_mask(HARD, "ea_all").tolist() == [1, 1, 1, 1]
    assert ea_mask(HARD, "me").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # (1 + cos(pi p)) / 2, 1 - p and 1 at p = 0, 1/4, 1/2, 3/4.
        ("cosine", [1.0, 0.853553, 0.5, 0.146447]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("none", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_anneal_falls_from_one_and_may_end_early(kind: str, expected: list[float]):
    assert [entropy_anneal(t / 4, kind) for t in range(4)] == pytest.approx(expected, abs=1e-6)
    # Ended at 80 % of the run: the same values at 0.8 t, and 0 from 0.8 on.
    early = [entropy_anneal(0.8 * t / 4, kind, 0.8) for t in range(4)]
    assert early == pytest.approx(expected, abs=1e-6)
    assert {entropy_anneal(t, kind, 0.8) for t in (0.8, 0.9, 0.999)} == {0.0}


def test_top_entropy_tokens_by_hand():
    entropy = torch.tensor([[9.0, 1, 5, 3, 4, 9], [2, 2, 2, 2, 2, 2], [9, 7, 8, 0, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0]]).bool()
    # ceil(0.4 * 5) = 2: 9 and 5; ceil(0.4 * 4) = 2 of equal ones: the first; ceil(0.4) = 1.
    expected = [[0, 0, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0]]
    assert top_entropy_tokens(entropy, mask, 0.4).int().tolist() == expected
    assert torch.equal(top_entropy_tokens(entropy, mask, 1.0), mask)


@pytest.mark.parametrize("fraction", [0.07, 0.2, 0.5, 0.99])
def test_the_number_of_top_tokens_is_the_rounded_up_fraction(fraction: float):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(1, 101)
    mask = torch.arange(100) < lengths[:, None]
    chosen = top_entropy_tokens(torch.rand(100, 100, generator=generator), mask, fraction)
    percent = round(fraction * 100)
    assert chosen.sum(1).tolist() == [math.ceil(percent * n / 100) for n in lengths.tolist()]
