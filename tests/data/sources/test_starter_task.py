"""The starter's questions: correct, distinct, evenly mixed, in disjoint splits."""

import re

import pytest

from ceeh.data.sources.starter_task import StarterTask, num_chains
from ceeh.errors import ConfigError
from ceeh.starter.task import apply


def test_starter_questions_are_distinct_correct_and_evenly_mixed():
    questions = list(StarterTask(80, seed=3))
    assert len({q.uid for q in questions}) == len(questions) == len(StarterTask(80)) == 80
    assert [q.metadata["level"] for q in questions[:9]] == [1, 2, 3, 4, 5, 6, 7, 8, 1]
    for q in questions:
        operations = [(sign, int(digit)) for sign, digit in re.findall(r"([-+*])(\d+)", q.text)]
        assert len(operations) == q.metadata["level"]
        assert q.answer == f"{apply(int(q.text[:2]), operations):02d}"
        assert q.uid == f"starter-{q.text[:-1]}"


def test_starter_questions_depend_on_the_seed_alone():
    assert list(StarterTask(20, seed=1)) == list(StarterTask(20, seed=1))
    assert list(StarterTask(20, seed=1)) != list(StarterTask(20, seed=2))


def test_starter_splits_are_disjoint_for_any_seeds():
    # Level 1 has 18 operations x 100 starts = 1,800 chains; 1,000 of the 1,440 training chains and
    # 200 of the 360 held out would overlap by a hundred if drawn freely.
    train = {q.uid for q in StarterTask(1_000, seed=0, levels=1)}
    held_out = {q.uid for q in StarterTask(200, seed=1, split="held_out", levels=1)}
    assert len(train) == 1_000
    assert len(held_out) == 200
    assert train.isdisjoint(held_out)


def test_the_number_of_chains_is_counted():
    # 100 * 18; 100 * 18^2; level 4 multiplies once by 2-9, at one of 4 places: 100 * 4 * 8 * 18^3
    assert [num_chains(level) for level in (1, 2, 4)] == [1_800, 32_400, 18_662_400]
    # Level 7: two places of 7 by 2-9, one of the other 5 by one of 16, 4 operations +-1-9.
    assert num_chains(7) == 100 * 21 * 5 * 8**2 * 16 * 18**4


def test_levels_are_a_range_a_number_or_a_list():
    for levels, expected in (("2-4", [2, 3, 4]), ("5", [5]), (5, [5]), ([1, 8], [1, 8])):
        assert [q.metadata["level"] for q in StarterTask(len(expected), levels=levels)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": "0-3"}, "levels must be distinct levels from 1 to 8"),
        ({"levels": "3-1"}, "levels must be"),
        ({"levels": "easy"}, "got 'easy'"),
        ({"levels": []}, "levels must be"),
        ({"levels": [1, 1]}, "levels must be distinct"),
        ({"levels": [9]}, "levels must be"),
        ({"split": "test"}, "split must be one of train, held_out, got 'test'"),
        ({"questions": 0}, "questions must be at least 1, got 0"),
        ({"questions": 1_300, "levels": 1}, "asks for 1300 of level 1, which has about 1296"),
        ({"questions": 330, "levels": 1, "split": "held_out"}, "level 1, which has about 324"),
    ],
)
def test_the_starter_refuses_what_it_cannot_draw(arguments, message):
    with pytest.raises(ConfigError, match=message):
        StarterTask(**({"questions": 8} | arguments))
