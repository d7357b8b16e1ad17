"""Cutting a batch: whole prompts per optimiser step, a token budget per micro-batch, no row lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ceeh.modules.batching import microbatches, minibatches


def test_minibatches_hold_whole_prompts_in_batch_order() -> None:
    group = torch.tensor([0, 2, 1, 0, 2, 2])
    cut = minibatches(group, num_prompts=3, prompts=2)
    assert [rows.tolist() for rows in cut] == [[0, 2, 3], [1, 4, 5]]


def test_microbatches_fill_the_budget_longest_first() -> None:
    # 9 alone: 2 x 9 > 12. Then 4, 4, 3: 3 x 4 = 12. Then 2.
    totals = torch.tensor([2, 4, 9, 3, 4])
    cut = microbatches(totals, torch.arange(5), max_tokens=12)
    assert [rows.tolist() for rows in cut] == [[2], [1, 4, 3], [0]]


@given(totals=st.lists(st.integers(1, 50), min_size=1, max_size=40), budget=st.integers(50, 200))
def test_every_row_is_in_one_microbatch_within_the_budget(totals: list[int], budget: int) -> None:
    lengths = torch.tensor(totals)
    cut = microbatches(lengths, torch.arange(len(totals)), budget)
    assert sorted(int(row) for rows in cut for row in rows) == list(range(len(totals)))
    assert all(len(rows) * int(lengths[rows].max()) <= budget for rows in cut)


def test_a_row_longer_than_the_budget_still_gets_its_turn() -> None:
    cut = microbatches(torch.tensor([30, 5]), torch.arange(2), max_tokens=10)
    assert [rows.tolist() for rows in cut] == [[0], [1]]


@pytest.mark.parametrize("prompts", [1, 3, 7])
def test_minibatches_cover_every_row_once(prompts: int) -> None:
    group = torch.tensor([4, 0, 0, 3, 1, 2, 4, 1])
    cut = minibatches(group, num_prompts=5, prompts=prompts)
    assert sorted(torch.cat(cut).tolist()) == list(range(8))
