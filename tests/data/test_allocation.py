"""Allocation: the optimum against all allocations, its bounds, what prompts get, and a resumed loader."""

import itertools
from typing import Any

import pytest

from ceeh.config.consistency import check_pairs
from ceeh.config.rollouts import Allocation, Rollouts
from ceeh.config.settings import load
from ceeh.data.allocation import Knapsack, contrast, knapsack
from ceeh.errors import ConfigError
from tests.data.scripted import PROMPTS, Scripted, loader


def value(accuracies: list[float], counts: tuple[int, ...]) -> float:
    return sum(
        (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2
        for p, n in zip(accuracies, counts, strict=True)
    )


def test_a_group_has_contrast_as_often_as_its_chance_says() -> None:
    # Of four equally likely outcomes of two responses two have both kinds; of eight outcomes of three, six.
    assert [contrast(0.5, 2), contrast(0.5, 3)] == [0.5, 0.75]
    assert [contrast(p, 8) for p in (0.0, 1.0)] == [0, 0]


@pytest.mark.parametrize(
    "accuracies", [[0.1, 0.5, 0.9], [0.05, 0.3, 0.35], [0.5, 0.97, 0.99], [0.2, 0.2, 0.7]]
)
@pytest.mark.parametrize(("total", "minimum", "maximum"), [(15, 2, 11), (12, 2, 5), (21, 3, 15)])
def test_no_other_allocation_is_worth_more(accuracies, total, minimum, maximum) -> None:
    found = knapsack(accuracies, total, minimum=minimum, maximum=maximum)
    assert sum(found) == total
    every = itertools.product(range(minimum, maximum + 1), repeat=3)
    best = max(value(accuracies, counts) for counts in every if sum(counts) == total)
    assert value(accuracies, tuple(found)) == pytest.approx(best, rel=1e-12)


def test_where_nothing_is_to_be_gained_all_get_as_many() -> None:
    assert knapsack([0.0, 1.0, 1.0], 12, minimum=2, maximum=9) == [4, 4, 4]
    # What the only useful question may not have is shared by the others.
    assert knapsack([0.0, 0.5, 1.0], 14, minimum=2, maximum=6) == [4, 6, 4]
    assert knapsack([0.3, 0.6], 8, minimum=4, maximum=4) == [4, 4]
    assert knapsack([], 0, minimum=2, maximum=9) == []


def test_a_question_without_a_history_gets_the_mean_and_the_rest_is_shared() -> None:
    settings = load(
        [],
        [
            "rollouts.completions_per_prompt=4",
            "rollouts.allocation={method: knapsack, minimum: 2, maximum: 8}",
        ],
    ).rollouts
    allocation = Knapsack(settings)
    assert allocation.counts(["a", "b", "c"]) == (4, 4, 4)
    allocation.observe([("a", 0.5), ("b", 1.0), ("c", 0.25)])
    allocation.observe([("c", 1.0)])  # its last visit counts
    assert allocation.counts(["b", "new", "a"]) == (2, 4, 6)
    assert allocation.counts(["b", "c"]) == (4, 4)
    again = Knapsack(settings)
    again.load_state_dict(allocation.state_dict())
    assert again.counts(["b", "new", "a"]) == (2, 4, 6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["rollouts.completions_per_prompt=2", "rollouts.allocation.minimum=3"],
            "from rollouts.*3",
        ),
        (
            ["rollouts.allocation.maximum=8"],
            r"completions_per_prompt \(12\), the mean number, must",
        ),
        (["rollouts.dynamic_sampling.max_rounds=3"], "both choose where completions go; set max_r"),
    ],
)
def test_a_knapsack_without_room_or_beside_dynamic_sampling_is_refused(overrides, message) -> None:
    check_pairs(load([], overrides), 1)
    with pytest.raises(ConfigError, match=message):
        check_pairs(load([], [*overrides, "rollouts.allocation.method=knapsack"]), 1)


def four_each() -> Knapsack:
    settings = Allocation(method="knapsack", minimum=2, maximum=9)
    return Knapsack(Rollouts(completions_per_prompt=4, allocation=settings))


def test_completions_go_to_what_the_last_visit_promises_most_of() -> None:
    engine = Scripted()
    list(loader(engine, 1, steps=2, prompts=PROMPTS[:4], allocation=four_each()))
    asked = [
        dict(zip(names, sampling.completions, strict=True)) for names, sampling in engine.asked
    ]
    # u1 solved one of two responses, u2 both, u0 and u3 none; 16 in all, at most 9 for one.
    assert asked == [dict.fromkeys(("u0", "u1", "u2", "u3"), 4), asked[1]]
    assert asked[1]["u1"] == 9
    assert sorted(asked[1].values()) == [2, 2, 3, 9]


def test_what_other_ranks_saw_counts_for_the_allocation() -> None:
    engine, allocation = Scripted(), four_each()
    elsewhere = [("u1", 3.0, 0.25), ("far", 3.0, 0.5)]

    def gather(own: Any) -> list[Any]:
        return [own, (0, elsewhere)]

    next(iter(loader(engine, 1, prompts=PROMPTS[:4], allocation=allocation, gather=gather)))
    assert allocation.counts(["u2", "far"]) == (2, 6)
    assert allocation.accuracies["u1"] == 0.25


@pytest.mark.parametrize("cut", [1, 6, 8])
def test_a_resumed_loader_allocates_what_the_uninterrupted_one_does(cut: int) -> None:
    whole, stopped, resumed = Scripted(), Scripted(), Scripted()
    list(loader(whole, 1, steps=12, allocation=four_each()))
    first = loader(stopped, 1, steps=12, allocation=four_each())
    list(itertools.islice(iter(first), cut))
    second = loader(resumed, 1, steps=12, allocation=four_each())
    second.load_state_dict(first.state_dict())
    list(second)
    assert stopped.asked + resumed.asked == whole.asked
    assert len({sampling.completions for _, sampling in whole.asked}) > 2
