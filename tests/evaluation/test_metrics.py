"""Metrics against enumeration and loops."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from ceeh.evaluation.metrics import (
    MAX_SUBSETS,
    majority_at_k,
    majority_sizes,
    nag_product,
    nag_quotient,
    pass_at_k,
    vote_subsets,
)
from ceeh.evaluation.samples import answer_classes
from tests.evaluation.tables import sample_table, table_metrics


def reference_pass_at_k(correct: int, samples: int, k: int) -> float:
    """Every subset of k samples, counted."""
    marks = [i < correct for i in range(samples)]
    subsets = list(itertools.combinations(marks, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample():
    # 2 of 4 correct, k = 2: of the 6 pairs one holds no correct sample: 1 - 1/6
    assert pass_at_k(2, 4, 2) == pytest.approx(5 / 6)
    for samples in range(1, 7):
        for k, correct in itertools.product(range(1, samples + 1), range(samples + 1)):
            expected = reference_pass_at_k(correct, samples, k)
            assert pass_at_k(correct, samples, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("correct", "samples", "k"), [(1, 4, 5), (1, 4, 0), (5, 4, 1), (-1, 4, 1)])
def test_pass_at_k_refuses_what_it_cannot_estimate(correct, samples, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(correct, samples, k)


def reference_majority(answers: list[int], correct: list[bool], k: int) -> float:
    """Every subset of k samples votes; ties are shared."""
    right = {a for a, c in zip(answers, correct, strict=True) if a >= 0 and c}
    shares = []
    for subset in itertools.combinations(answers, k):
        votes = [answer for answer in subset if answer >= 0]
        most = max((votes.count(answer) for answer in votes), default=0)
        winners = {answer for answer in votes if votes.count(answer) == most}
        shares.append(len(winners & right) / len(winners) if winners else 0.0)
    return sum(shares) / len(shares)


def test_majority_is_that_of_every_subset_of_the_samples():
    rng = random.Random(0)
    for samples in range(1, 8):
        given = [[rng.choice(["7", "8", "9", None]) for _ in range(samples)] for _ in range(5)]
        answers = [answer_classes(row) for row in given]
        # One verdict per answer of a question, as a verifier gives them.
        correct = [[answer == "8" for answer in row] for row in given]
        for k in range(1, samples + 1):
            found = majority_at_k(np.array(answers), np.array(correct), k)
            expected = [reference_majority(a, c, k) for a, c in zip(answers, correct, strict=True)]
            assert found.tolist() == pytest.approx(expected)


def test_majority_of_a_literal_case():
    answers = np.array([[0, 0, 1, 1], [0, 1, 1, 2], [-1, -1, -1, 0], [-1, -1, -1, -1]])
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    # A tie of a correct and an incorrect answer: a half. Outvoted: 0. The only vote: 1. No vote: 0.
    assert majority_at_k(answers, correct, 4).tolist() == [0.5, 0.0, 1.0, 0.0]
    # One sample: its correctness on average.
    assert majority_at_k(answers, correct, 1).tolist() == [0.5, 0.25, 0.25, 0.0]


def test_an_answer_that_was_graded_correct_once_is_correct_where_grading_timed_out():
    assert majority_at_k(np.array([[0, 0, 1]]), np.array([[False, True, False]]), 3) == [1.0]


def test_too_many_subsets_are_a_seeded_draw_close_to_all_of_them():
    subsets = vote_subsets(16, 8)
    assert subsets.shape == (MAX_SUBSETS, 16)
    assert (subsets.sum(1) == 8).all()
    assert (subsets == vote_subsets(16, 8)).all()
    # Each sample is chosen half the time: 256 of 512, with a standard error of 11.
    assert np.abs(subsets.sum(0) - 256).max() < 50
    answers = np.array([[0] * 7 + [1] * 6 + [2] * 3])
    exact = reference_majority(answers[0].tolist(), (answers == 0)[0].tolist(), 8)
    # 512 draws of a share: a standard error of at most 0.022
    assert majority_at_k(answers, answers == 0, 8)[0] == pytest.approx(exact, abs=0.07)


def test_majority_refuses_more_votes_than_samples():
    with pytest.raises(ValueError, match="got k=3 of 2 samples"):
        majority_at_k(np.zeros((1, 2), int), np.ones((1, 2), bool), 3)


def test_majority_is_reported_at_powers_of_two_and_at_all_samples():
    assert majority_sizes(1) == [1]
    assert majority_sizes(8) == [1, 2, 4, 8]
    assert majority_sizes(12) == [1, 2, 4, 8, 12]


def test_metrics_of_a_literal_table():
    table = sample_table(
        correct=torch.tensor([[True, False], [True, True]]),
        lengths=torch.tensor([[10, 30], [20, 20]]),
        finished=torch.tensor([[True, False], [True, True]]),
        answers=torch.tensor([[0, -1], [0, 0]]),
        entropy=torch.tensor([[0.5, 0.1], [0.2, 0.4]]),
    )
    assert table_metrics(table) == pytest.approx(
        {
            "accuracy": 0.75,
            "tokens": 20.0,
            "tokens_correct": 50 / 3,
            "tokens_wrong": 30.0,
            "tokens_truncated": 30.0,
            "truncated_fraction": 0.25,
            "pass_at_1": 0.75,
            "pass_at_2": 1.0,
            "maj_at_1": 0.75,
            "maj_at_2": 1.0,
            # (10 * 0.5 + 30 * 0.1) / 40 = 0.2 and 0.3
            "entropy": 0.25,
        }
    )


def test_metrics_of_nothing_are_undefined_not_zero():
    found = table_metrics(sample_table(correct=torch.tensor([[True]])))
    assert math.isnan(found["tokens_wrong"])
    assert math.isnan(found["tokens_truncated"])
    assert found["pass_at_1"] == found["accuracy"]
    assert "maj_at_1" not in found, "no answers are known: there is no vote"


def test_nag_in_both_forms_of_a_literal_case():
    # 2 % of the accuracy lost at 36 % of the length: 2 * 0.8 and 2 / 0.8
    assert nag_product(0.49, 0.5, 36.0, 100.0) == pytest.approx(1.6)
    assert nag_quotient(0.49, 0.5, 36.0, 100.0) == pytest.approx(2.5)
    # an accuracy gained is negative
    assert nag_product(0.55, 0.5, 36.0, 100.0) == pytest.approx(-8.0)


@pytest.mark.parametrize(("accuracy", "tokens"), [(0.0, 50.0), (0.5, 100.0), (0.5, 120.0)])
def test_nag_is_undefined_without_a_correct_base_or_a_shorter_text(accuracy, tokens):
    assert math.isnan(nag_product(0.5, accuracy, tokens, 100.0))
    assert math.isnan(nag_quotient(0.5, accuracy, tokens, 100.0))
