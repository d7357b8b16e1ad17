"""Held-out statistics: pass@k against enumeration, intervals against loops and theory."""

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor

from ceeh.modules.metrics import (
    HeldOutMetric,
    HeldOutQuestion,
    HeldOutTable,
    pass_at_k,
)


def reference_pass_at_k(correct: int, samples: int, k: int) -> float:
    """Every subset of k samples, counted."""
    marks = [i < correct for i in range(samples)]
    subsets = list(itertools.combinations(marks, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample():
    for samples in range(1, 7):
        for k in range(1, samples + 1):
            for correct in range(samples + 1):
                expected = reference_pass_at_k(correct, samples, k)
                assert pass_at_k(correct, samples, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_a_literal_case():
    # 2 of 4 right, k = 2: of the 6 pairs one holds no right sample: 1 - 1/6
    assert pass_at_k(2, 4, 2) == pytest.approx(5 / 6)


@pytest.mark.parametrize(("correct", "samples", "k"), [(1, 4, 5), (1, 4, 0), (5, 4, 1), (-1, 4, 1)])
def test_pass_at_k_refuses_what_it_cannot_estimate(correct, samples, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(correct, samples, k)


def test_metric_gathers_batches_sorted_and_counts_a_repeated_question_once():
    metric = HeldOutMetric()
    metric.update(
        torch.tensor([2, 0]),
        torch.tensor([[True, False], [True, True]]),
        torch.tensor([[5, 6], [7, 8]]),
        torch.tensor([0.25, 0.5]),
    )
    metric.update(
        torch.tensor([1, 2]),
        torch.tensor([[False, False], [True, True]]),
        torch.tensor([[9, 10], [99, 99]]),
        torch.tensor([0.75, 9.0]),
    )
    found = metric.compute()
    assert found.index.tolist() == [0, 1, 2]
    assert found.correct.tolist() == [[True, True], [False, False], [True, False]]
    assert found.lengths.tolist() == [[7, 8], [9, 10], [5, 6]]
    assert found.entropy.tolist() == [0.5, 0.75, 0.25]


def test_metric_keeps_the_shape_of_a_single_question_with_a_single_sample():
    metric = HeldOutMetric()
    metric.update(
        torch.tensor([0]), torch.tensor([[True]]), torch.tensor([[3]]), torch.tensor([0.1])
    )
    assert metric.compute().correct.shape == (1, 1)
    assert metric.compute().entropy.shape == (1,)


def test_metric_forgets_on_reset_and_then_says_that_nothing_was_scored():
    metric = HeldOutMetric()
    metric.update(
        torch.tensor([0]), torch.tensor([[True]]), torch.tensor([[3]]), torch.tensor([0.1])
    )
    metric.reset()
    with (
        pytest.warns(UserWarning, match="called before the ``update``"),
        pytest.raises(ValueError, match="no held-out question"),
    ):
        metric.compute()


def test_metric_refuses_questions_with_other_numbers_of_samples():
    metric = HeldOutMetric()
    for samples in (2, 3):
        row = torch.ones(1, samples)
        metric.update(torch.tensor([samples]), row.bool(), row.long(), torch.tensor([0.1]))
    with pytest.raises(ValueError, match="one number of samples, got 2 and others"):
        metric.compute()


def gather_with(other: list[Tensor], state: Tensor, group: object = None) -> list[Tensor]:
    """What an all-gather over two ranks returns; `other` in the order asked for."""
    return [state, other.pop(0)]


@pytest.mark.parametrize("full_rank", [0, 1])
def test_metric_joins_ranks_even_when_one_had_no_question(full_rank):
    ranks = [HeldOutMetric(), HeldOutMetric()]
    ranks[full_rank].update(
        torch.tensor([4, 3]),
        torch.tensor([[True, False], [False, False]]),
        torch.tensor([[5, 6], [7, 8]]),
        torch.tensor([0.5, 0.25]),
    )
    # torchmetrics sends this for a rank without data
    sent = ranks[1].rows
    other = [torch.cat(sent) if isinstance(sent, list) and sent else torch.tensor([])]
    ranks[0].distributed_available_fn = lambda: True
    ranks[0].dist_sync_fn = partial(gather_with, other)
    if full_rank == 1:
        ranks[0]._update_count = 1
    found = ranks[0].compute()
    assert found.index.tolist() == [3, 4]
    assert found.lengths.tolist() == [[7, 8], [5, 6]]


def test_table_of_questions_keeps_their_order():
    questions = [
        HeldOutQuestion(
            uid=name, correct=(True, right), lengths=(3, 4), finished=(True, True), entropy=0.5
        )
        for name, right in (("b", True), ("a", False))
    ]
    assert HeldOutTable.of(questions).correct.tolist() == [[True, True], [True, False]]
