"""The summary of base against tuned: a literal case, pairing, coverage, seeds, empty subsets."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.evaluation.samples import SampleTable
from ceeh.evaluation.summary import summarize
from tests.evaluation.tables import sample_table


def table(chance: Tensor, samples: int, generator: torch.Generator) -> SampleTable:
    """Questions with the given chances [Q]; where they are low, more tokens and entropy."""
    size = (len(chance), samples)
    return sample_table(
        correct=torch.rand(size, generator=generator) < chance[:, None],
        lengths=torch.poisson((100 - 50 * chance)[:, None].expand(size), generator).long() + 1,
        entropy=0.5 - 0.3 * chance + 0.1 * torch.rand(len(chance), generator=generator),
    )


def pair(questions: int, samples: int, seed: int) -> tuple[SampleTable, SampleTable, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(questions, generator=generator)
    base, tuned = (table(chance, samples, generator) for _ in range(2))
    return base, tuned, chance < 0.5


def test_summary_of_a_literal_case():
    base = sample_table(
        correct=torch.tensor([[True, True], [True, False]]),
        lengths=torch.tensor([[10, 20], [30, 40]]),
        entropy=torch.tensor([0.1, 0.3]),
    )
    tuned = sample_table(
        correct=torch.tensor([[True, True], [False, False]]),
        lengths=torch.tensor([[10, 10], [20, 20]]),
        entropy=torch.tensor([0.1, 0.5]),
    )
    summary = summarize(base, tuned, torch.tensor([False, True]), k=2, draws=200, seed=0)
    value = {
        (policy, subset, name): metric["value"]
        for policy in ("base", "tuned", "difference")
        for subset, metrics in summary[policy].items()
        for name, metric in metrics.items()
    }
    assert value["base", "all", "accuracy"] == 0.75  # 3 of 4
    assert value["base", "all", "tokens"] == 25.0  # 100 / 4
    assert value["base", "all", "pass_at_2"] == 1.0
    assert value["tuned", "all", "pass_at_2"] == 0.5
    assert value["base", "hard", "tokens"] == 35.0
    assert value["tuned", "easy", "accuracy"] == 1.0
    assert value["difference", "all", "accuracy"] == -0.25
    assert value["difference", "all", "tokens_relative"] == pytest.approx(-0.4)  # 15 / 25 - 1
    assert value["difference", "all", "entropy"] == pytest.approx(0.1)
    assert value["difference", "hard", "pass_at_2"] == -1.0
    changes = ["accuracy", "tokens_relative", "pass_at_2", "entropy"]
    assert list(summary["difference"]["all"]) == changes
    assert summary["questions"] == {"all": 2, "easy": 1, "hard": 1}
    assert summary["samples"] == 2


def test_differences_are_paired_by_question():
    base, tuned, hard = pair(questions=300, samples=8, seed=4)
    same = summarize(base, base, hard, k=8, draws=200, seed=0)["difference"]
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert all(metric == nothing for metrics in same.values() for metric in metrics.values())
    summary = summarize(base, tuned, hard, k=8, draws=1000, seed=0)
    found = [summary[part]["all"]["accuracy"] for part in ("base", "tuned", "difference")]
    widths = [interval["high"] - interval["low"] for interval in found]
    assert widths[2] < 0.75 * math.hypot(widths[0], widths[1])


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # chance uniform: E p = 1/2, E (1 - p)^4 = 1/5
    truth = {"accuracy": 0.5, "pass_at_4": 1 - 1 / 5}
    hits = dict.fromkeys(truth, 0)
    for seed in range(60):
        base, tuned, hard = pair(questions=60, samples=4, seed=seed)
        found = summarize(base, tuned, hard, k=4, draws=200, seed=seed)["base"]["all"]
        for name, value in truth.items():
            hits[name] += found[name]["low"] <= value <= found[name]["high"]
    # 95 % of 60 is 57, with a binomial error of 1.7
    assert all(count >= 52 for count in hits.values()), hits


def test_same_seed_gives_the_same_intervals_and_another_seed_others():
    base, tuned, hard = pair(questions=30, samples=4, seed=5)
    first, again, other = (
        summarize(base, tuned, hard, k=4, draws=100, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first["base"]["all"]["tokens"] != other["base"]["all"]["tokens"]


def test_chunks_of_draws_do_not_change_the_number_of_draws(monkeypatch):
    base, tuned, hard = pair(questions=30, samples=4, seed=6)
    whole = summarize(base, tuned, hard, k=4, draws=1000, seed=0)["base"]["all"]["tokens"]
    monkeypatch.setattr("ceeh.evaluation.bootstrap.CHUNK_SAMPLES", 30 * 4 * 7)
    split = summarize(base, tuned, hard, k=4, draws=1000, seed=0)["base"]["all"]["tokens"]
    assert split["value"] == whole["value"]
    width = whole["high"] - whole["low"]
    assert split["low"] == pytest.approx(whole["low"], abs=0.15 * width)
    assert split["high"] == pytest.approx(whole["high"], abs=0.15 * width)


@pytest.mark.parametrize(
    ("hard", "empty", "full"), [(True, "easy", "hard"), (False, "hard", "easy")]
)
def test_an_empty_subset_has_no_metrics_and_a_count_of_zero(hard, empty, full):
    base, tuned, _ = pair(questions=10, samples=2, seed=7)
    summary = summarize(base, tuned, torch.full((10,), hard), k=2, draws=100, seed=0)
    assert summary["base"][empty] == dict.fromkeys(summary["base"]["all"])
    assert set(summary["difference"][empty].values()) == {None}
    assert summary["questions"] == {"all": 10, empty: 0, full: 10}
    assert summary["base"][full] == summary["base"]["all"]


@pytest.mark.parametrize(
    ("shift", "k", "message"), [(1, 2, "the same questions"), (0, 8, "got k=8 of 2 samples")]
)
def test_other_questions_and_more_k_than_samples_are_refused(shift: int, k: int, message: str):
    base, tuned, hard = pair(questions=4, samples=2, seed=8)
    tuned = replace(tuned, index=tuned.index + shift)
    with pytest.raises(ValueError, match=message):
        summarize(base, tuned, hard, k=k, draws=100, seed=0)
