"""Intervals: what is drawn, what is paired, what is averaged."""

import math

import numpy as np
import pytest
import torch

from ceeh.evaluation.bootstrap import average, differences, estimates, interval, intervals
from ceeh.evaluation.metrics import table_metrics
from ceeh.evaluation.samples import SampleTable
from tests.evaluation.tables import sample_table


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
