"""The starter's questions: correct, distinct, evenly mixed, in disjoint splits."""

import re

import pytest

from ceeh.data.sources.starter_task import StarterTask, num_chains
from ceeh.errors import ConfigError
from ceeh.starter.task import apply
from ceeh.types import Demonstration


def test_starter_questions_are_distinct_correct_and_evenly_mixed():
    questions = list(StarterTask(80, seed=3))
    assert len({q.uid for q in questions}) == len(questions) == len(StarterTask(80)) == 80
    assert [q.metadata["level"] for q in questions[:9]] == [1, 2, 3, 4, 5, 6, 1, 2, 3]
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
    # 100 * 18; 100 * 18^3; level 4 multiplies twice by 2-9, at two of 4 places
    assert [num_chains(level) for level in (1, 3, 4)] == [1_800, 583_200, 100 * 6 * 8**2 * 18**2]
    # Level 5: two places of 5 by 2-9, one of the other 3 by one of 32, 2 operations +-1-9.
    assert num_chains(5) == 100 * 10 * 3 * 8**2 * 32 * 18**2


def test_demonstrations_end_in_the_answer_and_practice_other_multipliers() -> None:
    source = StarterTask(600, seed=1, styles={"step": 1, "long": 2})
    examples = [each for each in source if isinstance(each, Demonstration)]
    assert len(examples) == len({each.uid for each in examples}) == 600
    assert all(each.response.endswith(f"so {each.answer}") for each in examples)
    share = sum(each.response.startswith("long ") for each in examples) / 600
    # 2/3 on levels 1 to 4, (2 * 2) / (2 * 2 + 0.25) = 16/17 on 5 and 6; three standard errors.
    assert share == pytest.approx((4 * 2 / 3 + 2 * 16 / 17) / 6, abs=0.06)
    multipliers = {int(n) for each in examples for n in re.findall(r"\*(\d\d)", each.text)}
    assert len(multipliers) > 60  # of the 89 from 11 to 99
    # 1,200 examples of level 1 repeat some of its 1,440 chains; a run's questions never do.
    first = [each.text for each in StarterTask(1200, levels=1, styles={"so": 1})]
    assert len(set(first)) < len(first)


def test_demonstrations_keep_the_splits_apart() -> None:
    held_out = {q.text for q in StarterTask(300, seed=0, split="held_out", levels=1)}
    worked = {q.text for q in StarterTask(3000, seed=5, levels=1, styles={"step": 1})}
    assert worked.isdisjoint(held_out)


def test_levels_are_a_range_a_number_or_a_list():
    for levels, expected in (("2-4", [2, 3, 4]), ("5", [5]), (5, [5]), ([1, 6], [1, 6])):
        assert [q.metadata["level"] for q in StarterTask(len(expected), levels=levels)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": "0-3"}, "levels must be distinct levels from 1 to 6"),
        ({"levels": "3-1"}, "levels must be"),
        ({"levels": "easy"}, "got 'easy'"),
        ({"levels": []}, "levels must be"),
        ({"levels": [1, 1]}, "levels must be distinct"),
        ({"levels": [9]}, "levels must be"),
        ({"styles": {"terse": 1}}, "styles must give so, leap, step, long, read relative"),
        ({"styles": {"so": 0}}, "relative frequencies above 0"),
        ({"split": "test"}, "split must be one of train, held_out, got 'test'"),
        ({"questions": 0}, "questions must be at least 1, got 0"),
        ({"questions": 1_300, "levels": 1}, "asks for 1300 of level 1, which has about 1296"),
        ({"questions": 330, "levels": 1, "split": "held_out"}, "level 1, which has about 324"),
    ],
)
def test_the_starter_refuses_what_it_cannot_draw(arguments, message):
    with pytest.raises(ConfigError, match=message):
        StarterTask(**({"questions": 8} | arguments))
