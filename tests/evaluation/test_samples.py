"""Samples gathered over batches and ranks: order, repeats, shapes, what cannot be joined."""

from functools import partial

import pytest
import torch
from torch import Tensor

from ceeh.evaluation.metrics import table_metrics
from ceeh.evaluation.samples import NO_ANSWER, SampleMetric, answer_classes


def update(metric: SampleMetric, index: list[int], correct: list[list[bool]], **columns) -> None:
    """Adds questions; lengths count up from 5 with the question and the sample."""
    right = torch.tensor(correct)
    lengths = torch.tensor(index)[:, None] * 10 + torch.arange(5, 5 + right.shape[1])
    given = {
        "lengths": lengths,
        "finished": lengths % 2 == 1,
        "entropy": lengths / 100,
    } | columns
    metric.update(torch.tensor(index), correct=right, **given)


def test_metric_gathers_batches_sorted_and_counts_a_repeated_question_once():
    metric = SampleMetric()
    update(metric, [2, 0], [[True, False], [True, True]], answers=torch.tensor([[0, 1], [0, 0]]))
    update(metric, [1, 2], [[False, False], [True, True]])
    found = metric.compute()
    assert found.index.tolist() == [0, 1, 2]
    assert found.correct.tolist() == [[True, True], [False, False], [True, False]]
    assert found.lengths.tolist() == [[5, 6], [15, 16], [25, 26]]
    assert found.finished.tolist() == [[True, False]] * 3
    assert found.answers.tolist() == [[0, 0], [NO_ANSWER, NO_ANSWER], [0, 1]]
    assert found.entropy.tolist() == torch.tensor([[5, 6], [15, 16], [25, 26]]).div(100).tolist()


def test_metric_keeps_the_shape_of_a_single_question_with_a_single_sample():
    metric = SampleMetric()
    update(metric, [0], [[True]])
    assert metric.compute().correct.shape == metric.compute().entropy.shape == (1, 1)


def test_metric_forgets_on_reset_and_then_says_that_nothing_was_scored():
    metric = SampleMetric()
    update(metric, [0], [[True]])
    metric.reset()
    with (
        pytest.warns(UserWarning, match="called before the ``update``"),
        pytest.raises(ValueError, match="no question was scored"),
    ):
        metric.compute()


def test_metric_refuses_questions_with_other_numbers_of_samples():
    metric = SampleMetric()
    update(metric, [0], [[True, True]])
    update(metric, [1], [[True, True, True]])
    with pytest.raises(ValueError, match="one number of samples, got 2 and others"):
        metric.compute()


def gather_with(other: list[Tensor], state: Tensor, group: object = None) -> list[Tensor]:
    """What an all-gather over two ranks returns; `other` in the order asked for."""
    return [state, other.pop(0)]


@pytest.mark.parametrize("full_rank", [0, 1])
def test_metric_joins_ranks_even_when_one_had_no_question(full_rank):
    ranks = [SampleMetric(), SampleMetric()]
    update(ranks[full_rank], [4, 3], [[True, False], [False, False]])
    # torchmetrics sends this for a rank without data
    sent = ranks[1].packed
    other = [torch.cat(sent) if isinstance(sent, list) and sent else torch.tensor([])]
    ranks[0].distributed_available_fn = lambda: True
    ranks[0].dist_sync_fn = partial(gather_with, other)
    if full_rank == 1:
        ranks[0]._update_count = 1
    found = ranks[0].compute()
    assert found.index.tolist() == [3, 4]
    assert found.lengths.tolist() == [[35, 36], [45, 46]]


def test_figures_of_two_ranks_are_those_of_one_that_has_it_all():
    halves, whole = [SampleMetric(), SampleMetric()], SampleMetric()
    rows = [(0, [True, False]), (1, [False, False]), (2, [True, True])]
    for index, correct in rows:
        update(halves[index % 2], [index], [correct])
        update(whole, [index], [correct])
    other = [torch.cat(halves[1].packed)]
    halves[0].distributed_available_fn = lambda: True
    halves[0].dist_sync_fn = partial(gather_with, other)
    found = table_metrics(halves[0].compute())
    assert found == pytest.approx(table_metrics(whole.compute()), nan_ok=True)
    assert found["accuracy"] == 0.5  # 3 of 6


def test_equal_answers_of_a_question_share_a_number():
    assert answer_classes(["7", None, "8", "7"]) == [0, NO_ANSWER, 1, 0]
