"""Intervals: what is drawn, what is paired, what is averaged."""

import math

import numpy as np
import pytest
import torch

from ceeh.evaluation.bootstrap import (
    average,
    differences,
    estimates,
    interval,
    intervals,
    pooled,
    win_share,
)
from ceeh.evaluation.samples import SampleTable
from tests.evaluation.tables import sample_table, table_metrics


def table(questions: int, samples: int, seed: int) -> SampleTable:
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(questions, 1, generator=generator)
    correct = torch.rand((questions, samples), generator=generator) < chance
    lengths = torch.poisson((60 - 40 * chance).expand(-1, samples), generator).long() + 1
    finished = torch.rand((questions, samples), generator=generator) < 0.9
    return sample_table(
        correct=correct,
        lengths=lengths,
        finished=finished,
        answers=torch.where(correct, 0, 1),
        entropy=torch.rand((questions, samples), generator=generator),
    )


def test_the_first_entry_is_the_metric_itself():
    some = table(20, 4, 0)
    found = {name: draws[0] for name, draws in estimates(some, draws=100, seed=0).items()}
    assert found == pytest.approx(table_metrics(some))


def reference_ratio_draws(numerator, denominator, draws: int, seed: int) -> np.ndarray:
    """Questions, then samples within each, one at a time."""
    rng = np.random.default_rng(seed)
    questions, samples = numerator.shape
    values = []
    for _ in range(draws):
        above = below = 0.0
        for question in rng.integers(questions, size=questions):
            for sample in rng.integers(samples, size=samples):
                above += numerator[question, sample]
                below += denominator[question, sample]
        values.append(above / below)
    return np.array(values)


def test_tokens_of_wrong_responses_are_drawn_as_a_ratio_of_sums():
    some = table(15, 3, 1)
    wrong = (~some.correct).double().numpy()
    expected = reference_ratio_draws(some.lengths.numpy() * wrong, wrong, 3000, 7)
    found = estimates(some, draws=3000, seed=0)["tokens_wrong"][1:]
    # means of 3,000 draws agree to a 50th, percentiles to about a 20th of the spread
    assert found.mean() == pytest.approx(expected.mean(), abs=expected.std() / 12)
    for percentile in (2.5, 97.5):
        one, other = np.percentile(found, percentile), np.percentile(expected, percentile)
        assert one == pytest.approx(other, abs=expected.std() / 4)


def test_one_seed_draws_the_same_questions_whatever_the_number_of_samples():
    # Every sample of a question alike: only the draw of questions moves the accuracy.
    solved = torch.arange(30) % 3 == 0
    few, many = (sample_table(correct=solved[:, None].expand(30, k)) for k in (2, 9))
    one, other = (estimates(each, draws=200, seed=3)["accuracy"] for each in (few, many))
    assert np.array_equal(one, other)
    assert one.std() > 0


def test_a_difference_is_taken_draw_by_draw_and_tokens_relatively_too():
    before = {"accuracy": np.array([0.5, 0.4]), "tokens": np.array([100.0, 80.0]), "x": np.ones(2)}
    after = {"accuracy": np.array([0.6, 0.6]), "tokens": np.array([50.0, 60.0])}
    change = differences(before, after)
    assert change["accuracy"].tolist() == pytest.approx([0.1, 0.2])
    assert change["tokens"].tolist() == [-50.0, -20.0]
    assert change["tokens_relative"].tolist() == [-0.5, -0.25]
    assert set(change) == {"accuracy", "tokens", "tokens_relative"}


def test_an_average_over_benchmarks_has_the_metrics_that_all_have():
    parts = [
        {"accuracy": np.array([0.2, 0.4]), "pass_at_8": np.ones(2)},
        {"accuracy": np.array([0.4, 0.8])},
    ]
    found = average(parts)
    assert set(found) == {"accuracy"}
    assert found["accuracy"].tolist() == pytest.approx([0.3, 0.6])


def test_an_average_of_two_benchmarks_is_narrower_than_either():
    parts = [estimates(table(40, 4, seed), draws=1000, seed=seed) for seed in (0, 1)]
    spreads = [part["accuracy"].std() for part in parts]
    expected = math.hypot(*spreads) / 2
    assert average(parts)["accuracy"].std() == pytest.approx(expected, rel=0.1)


def test_an_interval_leaves_out_draws_without_a_value():
    draws = np.array([1.0, 1.0, 2.0, 3.0, math.nan])
    found = interval(draws)
    assert found == {"value": 1.0, "low": pytest.approx(1.05), "high": pytest.approx(2.95)}


def test_a_metric_of_nothing_has_no_interval():
    found = intervals(estimates(sample_table(correct=torch.ones(3, 2).bool()), draws=100, seed=0))
    assert found["tokens_wrong"] is None
    assert found["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_an_empty_table_has_no_intervals():
    empty = table(4, 2, 0).rows(torch.zeros(4, dtype=torch.bool))
    assert set(intervals(estimates(empty, draws=100, seed=0)).values()) == {None}


def test_a_pool_draws_one_seed_less_than_there_are_and_averages_them():
    # Constant over draws, so that a draw of 2 of the 3 seeds is a mean of two of these numbers.
    of_seeds = [{"accuracy": np.full(1 + 4000, value)} for value in (0.0, 0.3, 0.6)]
    found = pooled(of_seeds, seed=0)["accuracy"]
    assert found[0] == pytest.approx(0.3)  # (0 + 0.3 + 0.6) / 3
    values, counts = np.unique(found[1:].round(6), return_counts=True)
    assert values.tolist() == pytest.approx([0.0, 0.15, 0.3, 0.45, 0.6])
    # of the 9 ordered pairs: 00; 01 10; 02 11 20; 12 21; 22
    assert counts / 4000 == pytest.approx(np.array([1, 2, 3, 2, 1]) / 9, abs=0.03)
    # the unbiased variance of the mean: ((0.3)^2 + 0 + (0.3)^2) / (3 - 1) / 3 = 0.03
    assert found[1:].var() == pytest.approx(0.03, rel=0.06)


def test_a_pool_of_one_seed_is_that_seed():
    one = estimates(table(20, 4, 0), draws=100, seed=0)
    found = pooled([one], seed=0)
    assert all(np.array_equal(found[name], one[name], equal_nan=True) for name in one)


def trainings(seeds: int, questions: int, rng: np.random.Generator) -> list[SampleTable]:
    """Runs whose accuracy is 0.5 on average, with a spread of 0.1 over questions and of 0.15 over seeds."""
    of_questions = rng.normal(0, 0.1, size=questions)
    chances = 0.5 + of_questions + rng.normal(0, 0.15, size=(seeds, 1))
    return [
        sample_table(correct=torch.from_numpy(rng.random((questions, 16)) < chance[:, None]))
        for chance in chances.clip(0, 1)
    ]


def test_the_pooled_spread_is_that_of_repeating_the_whole_study():
    """Known distribution: the mean over 4 seeds and 50 questions has variance 0.15^2 / 4 + 0.1^2 / 50
    plus a binomial 0.24 / (4 x 50 x 16), a standard deviation of 0.0766. One seed's questions alone
    would give 0.014 + noise, five times too little."""
    rng = np.random.default_rng(0)
    variances, covered = [], 0
    for study in range(200):
        tables = trainings(4, 50, rng)
        found = pooled([estimates(each, draws=300, seed=study) for each in tables], seed=study)
        variances.append(found["accuracy"][1:].var())
        low, high = np.percentile(found["accuracy"][1:], [2.5, 97.5])
        covered += low <= 0.5 <= high
    assert np.mean(variances) ** 0.5 == pytest.approx(0.0766, rel=0.08)
    assert (
        0.78 <= covered / 200 <= 0.92
    )  # 0.847 of 1,000 studies: percentiles of few seeds are narrow


def test_a_change_between_arms_is_paired_by_question_and_by_seed():
    rng = np.random.default_rng(1)
    base = trainings(4, 50, rng)
    better = [
        sample_table(correct=each.correct | torch.from_numpy(rng.random(each.correct.shape) < 0.1))
        for each in base
    ]
    before, after = (
        pooled([estimates(each, draws=500, seed=0) for each in arm], seed=0)
        for arm in (base, better)
    )
    change = differences(before, after)["accuracy"]
    assert change[1:].std() < 0.3 * before["accuracy"][1:].std()
    assert win_share(after["accuracy"], before["accuracy"]) == 1.0


def test_a_win_is_counted_by_draw_and_a_tie_half():
    one, other = np.array([9.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 1.0, 5.0, 3.0])
    assert win_share(one, other) == 0.625  # tie, win, loss, win: 2.5 of 4
    assert win_share(other, one) == 0.375
