"""Samples joined over batches and ranks: order, repeats, shapes."""

import torch

from ceeh.evaluation.samples import COLUMNS, NO_ANSWER, SampleTable, answer_classes, join_tables
from tests.evaluation.tables import table_metrics


def table(index: list[int], correct: list[list[bool]]) -> SampleTable:
    """Lengths count up from 5 with the question and the sample."""
    lengths = torch.tensor(index)[:, None] * 10 + torch.arange(5, 5 + len(correct[0]))
    return SampleTable(
        index=torch.tensor(index),
        correct=torch.tensor(correct),
        lengths=lengths,
        finished=lengths % 2 == 1,
        answers=torch.full_like(lengths, NO_ANSWER),
        entropy=lengths / 100,
    )


def test_batches_are_sorted_and_a_repeated_question_counts_once_as_first_seen():
    first = table([2, 0], [[True, False], [True, True]])
    found = join_tables([first, table([1, 2], [[False, False], [True, True]])])
    assert found.index.tolist() == [0, 1, 2]
    assert found.correct.tolist() == [[True, True], [False, False], [True, False]]
    assert found.lengths.tolist() == [[5, 6], [15, 16], [25, 26]]
    assert found.finished.tolist() == [[True, False]] * 3
    torch.testing.assert_close(found.entropy, found.lengths / 100)


def test_the_split_over_ranks_does_not_change_the_metrics():
    correct = [[True, False], [False, False], [True, True]]
    halves = join_tables([table([0, 2], correct[::2]), table([1], correct[1:2])])
    whole = table([0, 1, 2], correct)
    assert all(torch.equal(getattr(halves, name), getattr(whole, name)) for name in COLUMNS)
    assert table_metrics(halves)["accuracy"] == 0.5  # 3 of 6


def test_equal_answers_of_a_question_share_a_number():
    assert answer_classes(["7", None, "8", "7"]) == [0, NO_ANSWER, 1, 0]
