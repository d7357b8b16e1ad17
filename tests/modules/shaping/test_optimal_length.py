"""Length penalties relative to the optimal length: each by hand, and when the gate is open."""

import math
from dataclasses import replace

import pytest
import torch

from ceeh.modules.metrics import row_means
from ceeh.modules.shaping.base import Shaping, ShapingInputs
from ceeh.modules.shaping.optimal_length import (
    BudgetPenalty,
    OptimalLengthPenalty,
    not_worse_than_history,
)
from tests.modules.shaping.shaping_inputs import NAN, inputs


@pytest.mark.parametrize(
    ("shaping", "given", "expected"),
    [
        # L_x = 100, Acc = 0.75 >= 0.5. 1 - 0.1 * 0; 1 - 0.1 * 50/100; 1 - min(0.9, 0.1 * 11);
        # wrong: 0; below the stored optimum 1 + 0.1 * 20/100 on the second prompt.
        (
            OptimalLengthPenalty(),
            inputs([1, 1, 1, 0, 1], [100, 150, 1200, 500, 80], [0, 0, 0, 0, 1],
                   [100.0, 100.0], [0.5, 1.0]),
            [1.0, 0.95, 0.1, 0.0, 1.02],
        ),
        (OptimalLengthPenalty(), inputs([1, 1], [10, 900], [0, 0]), [1.0, 1.0]),
        # The floor before beta: 1 - 0.1 * 0.5; 1 - 0.1 * 0.9 where the term is -11; below L_x as ever.
        (
            OptimalLengthPenalty(floor_on="unscaled"),
            inputs([1, 1, 1], [150, 1200, 80], [0, 0, 0], [100.0], [0.5]),
            [0.95, 0.91, 1.02],
        ),
        # B = 1.5 * 100. Up to it nothing, below it nothing; 1 - 0.4 * 30 / 150; 1 - 0.4 * 2; at least
        # 1 - 0.9; wrong 0; no budget, no term.
        (
            BudgetPenalty(beta=0.4, kappa=1.5),
            inputs([1, 1, 1, 1, 1, 0, 1], [150, 20, 180, 450, 990, 990, 990], [0] * 6 + [1],
                   [100.0, NAN]),
            [1.0, 1.0, 0.92, 0.2, 0.1, 0.0, 1.0],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Shaping) else "",
)  # fmt: skip
def test_literal_case(shaping: Shaping, given: ShapingInputs, expected: list[float]):
    torch.testing.assert_close(shaping(given), torch.tensor(expected))


def test_the_budgets_coefficient_may_be_a_signal():
    given = inputs([1, 1], [200, 200], [0, 1], [100.0, 100.0])
    given = replace(given, signals=given.signals | {"mine": torch.tensor([0.1, 0.5])})
    rewards = BudgetPenalty(beta_signal="mine")(given)
    torch.testing.assert_close(rewards, torch.tensor([0.9, 0.5]))


@pytest.mark.parametrize(
    ("history", "expected", "strict"),
    [(0.4, 0.9, 0.9), (0.5, 0.9, 1.0), (0.6, 1.0, 1.0), (NAN, 0.9, 0.9)],
    ids=["better", "equal", "worse", "first-visit"],
)
def test_gate_closes_for_a_prompt_that_is_worse_than_its_history(
    history: float, expected: float, strict: float
):
    # Acc = 1/2. The correct response is 200 long against 100: 1 - 0.1 where the gate is open.
    given = inputs([1, 0], [200, 50], [0, 0], [100.0], [history])
    torch.testing.assert_close(OptimalLengthPenalty()(given), torch.tensor([expected, 0.0]))
    narrow = OptimalLengthPenalty(strict_gate=True)(given)
    torch.testing.assert_close(narrow, torch.tensor([strict, 0.0]))
    ungated = OptimalLengthPenalty(gate=False)(given)
    torch.testing.assert_close(ungated, torch.tensor([0.9, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_its_history_opens_the_gate_for_every_fraction(dtype: torch.dtype):
    fractions = [(solved, size) for size in range(1, 17) for solved in range(size + 1)]
    for solved, size in fractions:
        history = solved / size
        for _ in range(50):
            history = 0.95 * history + 0.05 * (solved / size)
        accuracy = torch.tensor([solved, solved - 1], dtype=torch.float64) / size
        past = torch.tensor([history] * 2, dtype=dtype)
        assert not_worse_than_history(accuracy, past).tolist() == [True, False], (solved, size)
        assert not not_worse_than_history(accuracy, past, strict=True).any(), (solved, size)


def test_gate_and_penalty_are_logged_as_means_over_the_rows_of_all_ranks():
    given = inputs([1, 1, 0, 1], [100, 150, 500, 300], [0, 0, 0, 1], [100.0, 100.0], [0.5, 2.0])
    # Open on the three rows of prompt 0. Correct responses: 0, -0.05 and, behind the gate, 0.
    numbers = OptimalLengthPenalty().metrics(given)
    whole = row_means([numbers])
    assert whole == pytest.approx({"gate_open": 0.75, "length_penalty": -0.05 / 3})
    # Of unequal shares of the rows, the second without a correct response.
    shares = [{name: rows[part] for name, rows in numbers.items()} for part in ([0, 1, 3], [2])]
    assert row_means(shares) == pytest.approx(whole)
    assert math.isnan(row_means(shares[1:])["length_penalty"])
