"""Leg counting: right answers, demonstrations that end in them, splits that never meet."""

import re

import pytest

from ceeh.data.sources import LegCounting
from ceeh.data.sources.legs import STYLES, counted, listed, num_herds, total
from ceeh.errors import ConfigError
from ceeh.types import Demonstration

HERD = {"ostrich": 5, "spider": 1, "woodlouse": 2}  # 5 * 2 + 8 + 2 * 14 = 46
EVEN = dict.fromkeys(STYLES, 1.0)


def test_the_question_reads_as_english() -> None:
    assert listed(HERD) == "5 ostriches, 1 spider and 2 woodlice"
    assert counted("jellyfish", 3) == "3 jellyfish"
    assert total(HERD) == 46


def test_the_styles_are_as_documented() -> None:
    assert STYLES["direct"](HERD) == r"\boxed{46}"
    assert STYLES["short"](HERD) == (
        r"5*2 = 10, 1*8 = 8, 2*14 = 28. 10 + 8 = 18. 18 + 28 = 46. \boxed{46}"
    )
    assert STYLES["medium"]({"ant": 2}) == (
        r"An ant has 6 legs, so 2 ants: 2*6 = 12 legs. The answer is \boxed{12}."
    )


@pytest.mark.parametrize("style", STYLES)
def test_every_equation_of_a_demonstration_is_correct_and_its_end_is_the_answer(
    style: str,
) -> None:
    for question in LegCounting(200, styles={style: 1}):
        assert isinstance(question, Demonstration)
        for left, sign, right, result in re.findall(
            r"(\d+) ?([*+]) ?(\d+) = (\d+)", question.response
        ):
            assert int(result) == {"*": int(left) * int(right), "+": int(left) + int(right)}[sign]
        assert re.findall(r"\\boxed\{(\d+)\}\.?$", question.response) == [question.answer]


def test_longer_styles_are_longer() -> None:
    lengths = [len(STYLES[style](HERD)) for style in ("direct", "short", "medium", "long")]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 4


def test_splits_are_disjoint_whatever_the_seeds() -> None:
    train = {q.text for seed in range(3) for q in LegCounting(300, seed=seed)}
    held_out = {q.text for seed in range(3) for q in LegCounting(90, seed=seed, split="held_out")}
    assert train & held_out == set()
    assert len(held_out) > 150


def test_levels_cycle_and_count_the_kinds_of_animals() -> None:
    questions = list(LegCounting(40, levels=[2, 4]))
    assert [q.metadata["level"] for q in questions[:4]] == [2, 4, 2, 4]
    for question in questions:
        kinds = re.findall(r"\d+ [a-z]+", question.text)
        assert len(kinds) == question.metadata["level"]
    assert len({question.uid for question in questions}) == 40


def test_demonstrations_and_plain_questions_of_a_seed_are_drawn_from_the_same_space() -> None:
    assert not any(isinstance(question, Demonstration) for question in LegCounting(8))
    styles = [q.response for q in LegCounting(120, styles=EVEN)]  # type: ignore[attr-defined]
    openings = {re.match(r"\\boxed|\d|An? |We want", text)[0][:1] for text in styles}  # type: ignore[index]
    assert {"\\", "A", "W"} <= openings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"questions": 0}, "questions and max_count must be at least 1, got 0"),
        ({"questions": 9, "split": "test"}, "split must be one of train, held_out"),
        ({"questions": 9, "levels": "1-5"}, "levels must be distinct levels from 1 to 4"),
        ({"questions": 9, "styles": {"terse": 1}}, "styles must give direct, short, medium, long"),
        ({"questions": 9, "styles": {"long": 0}}, "relative frequencies above 0"),
        ({"questions": 9000, "levels": 1}, "asks for 9000 of level 1, which has about"),
    ],
)
def test_a_wrong_setting_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        LegCounting(**given)


@pytest.mark.parametrize(("level", "max_count"), [(1, 5), (1, 1), (2, 1)])
def test_the_largest_allowed_number_of_questions_exists(level: int, max_count: int) -> None:
    """Or drawing them would never end."""
    for split in ("train", "held_out"):
        most = num_herds(level, max_count, split)  # type: ignore[arg-type]
        questions = LegCounting(most, split=split, levels=level, max_count=max_count)
        assert len({question.text for question in questions}) == most
        with pytest.raises(ConfigError, match=f"which has about {most} in the split"):
            LegCounting(most + 1, split=split, levels=level, max_count=max_count)
