"""Cutting a batch: whole prompts per optimizer step, a token budget per micro-batch, no row lost."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ceeh.modules import batching
from ceeh.modules.batching import (
    OVERHEAD_TOKENS,
    Microbatch,
    microbatches,
    minibatches,
    padding_fraction,
)


@pytest.mark.parametrize(
    ("prompts", "expected"), [(2, [[0, 2, 3], [1, 4, 5]]), (1, [[0, 3], [2], [1, 4, 5]])]
)
def test_minibatches_hold_whole_prompts_in_batch_order(
    prompts: int, expected: list[list[int]]
) -> None:
    cut = minibatches(torch.tensor([0, 2, 1, 0, 2, 2]), num_prompts=3, prompts=prompts)
    assert [rows.tolist() for rows in cut] == expected


def rows_of(cut: list[Microbatch]) -> list[list[int]]:
    return [each.rows.tolist() for each in cut]


def test_microbatches_fill_the_budget_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # 9 alone: 2 x 9 > 12. Then 4, 4, 3 (3 x 4 = 12) and 2: 9 + 12 + 2 = 23 tokens, and three times
    # the overhead of 2 is 29. 4, 4 and 3, 2 cost 9 + 8 + 6 = 23 as well; the first cut is kept.
    monkeypatch.setattr(batching, "OVERHEAD_TOKENS", 2)
    totals = torch.tensor([2, 4, 9, 3, 4])
    cut = microbatches(totals, torch.arange(5), max_tokens=12)
    assert rows_of(cut) == [[2], [1, 4], [3, 0]]
    assert [each.width for each in cut] == [9, 4, 3]


def test_rows_are_split_when_that_saves_more_than_it_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Together 2 x 10 = 20 + c; apart 10 + 2 + 2 c: apart when c < 8.
    totals = torch.tensor([10, 2])
    for overhead, apart in {7: True, 9: False}.items():
        monkeypatch.setattr(batching, "OVERHEAD_TOKENS", overhead)
        cut = microbatches(totals, torch.arange(2), max_tokens=100)
        assert rows_of(cut) == ([[0], [1]] if apart else [[0, 1]])


def every_cut(lengths: list[int], max_tokens: int) -> Iterator[int]:
    """Cost of each way to cut `lengths` into runs within the budget."""
    if not lengths:
        yield 0
    for size in range(1, len(lengths) + 1):
        cost = size * lengths[0]
        if size == 1 or cost <= max_tokens:
            for rest in every_cut(lengths[size:], max_tokens):
                yield cost + OVERHEAD_TOKENS + rest


@given(totals=st.lists(st.integers(1, 400), min_size=1, max_size=9), budget=st.integers(400, 900))
def test_no_other_cut_is_cheaper(totals: list[int], budget: int) -> None:
    cut = microbatches(torch.tensor(totals), torch.arange(len(totals)), budget)
    cost = sum(len(each.rows) * each.width + OVERHEAD_TOKENS for each in cut)
    assert cost == min(every_cut(sorted(totals, reverse=True), budget))


@given(totals=st.lists(st.integers(0, 50), min_size=1, max_size=40), budget=st.integers(50, 200))
def test_every_row_is_in_one_microbatch_within_the_budget(totals: list[int], budget: int) -> None:
    lengths = torch.tensor(totals)
    cut = microbatches(lengths, torch.arange(len(totals)), budget)
    assert sorted(row for rows in rows_of(cut) for row in rows) == list(range(len(totals)))
    assert all(each.width == max(1, int(lengths[each.rows].max())) for each in cut)
    assert all(len(each.rows) * each.width <= budget for each in cut)


def test_a_row_longer_than_the_budget_is_a_micro_batch_by_itself() -> None:
    cut = microbatches(torch.tensor([30, 5]), torch.arange(2), max_tokens=10)
    assert rows_of(cut) == [[0], [1]]


def test_padding_is_a_share_of_the_tokens() -> None:
    # Rows of 8, 4 and 3 as 2 x 8 and 1 x 3: 19 tokens for 15.
    cut = [
        Microbatch(rows=torch.tensor([0, 1]), width=8),
        Microbatch(rows=torch.tensor([2]), width=3),
    ]
    assert padding_fraction(torch.tensor([8, 4, 3]), cut) == pytest.approx(4 / 19)
