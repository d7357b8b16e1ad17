"""DifficultyTargets: targets by hand, from the last groups alone, and the same after a resume."""

import pytest

from ceeh.callbacks.difficulty_targets import DifficultyTargets, band, expected_correct_target


@pytest.mark.parametrize(
    ("at_least_correct", "expected"),
    [
        # Of 10, 20, 30 and 40 tokens a quarter fits 16, a half 24, three quarters 32.
        (1, 32),  # all would have to: the last of the grid
        (2, 24),  # 0.5 * 2 = 1
        (3, 24),  # 0.25 * 3 < 1, 0.5 * 3 > 1
        (4, 16),  # 0.25 * 4 = 1
    ],
)
def test_the_target_is_the_shortest_that_one_correct_answer_is_expected_to_fit(
    at_least_correct: int, expected: int
):
    grid = [8, 16, 24, 32]
    assert expected_correct_target([10, 20, 30, 40], at_least_correct, grid) == expected


def test_without_responses_the_target_is_the_longest():
    assert expected_correct_target([], 4, [8, 16]) == 16


def read(targets: DifficultyTargets, *outcomes) -> list[float]:
    targets.before_step(outcomes)
    return [targets.read(outcome.uid)["target_length"] for outcome in outcomes]


def test_each_band_has_the_target_of_its_groups(outcome):
    targets = DifficultyTargets(shortest=10, longest=100, interval=10)
    easy = outcome("easy", (True, 12), (True, 25), (True, 30), (False, 40))  # 3/4
    medium = outcome("medium", (True, 41), (True, 45), (False, 70), (False, 70))  # 1/2
    hard = outcome("hard", (True, 21), (False, 90), (False, 90), (False, 90))  # 1/4
    assert read(targets, easy, medium, hard) == [100.0, 100.0, 100.0]
    for each in (easy, medium, hard):
        targets.observe(each)
    # K = 4. Easy: n = floor(8/3) = 2: half of them fit 30. Medium: n = 1: all fit 70. Hard: all fit 90.
    assert read(targets, easy, medium, hard) == [30.0, 70.0, 90.0]
    assert targets.metrics() == {
        "target_length_hard": 90.0,
        "target_length_medium": 70.0,
        "target_length_easy": 30.0,
    }
    # The band is that of the group now at hand, not of an earlier one.
    assert read(targets, outcome("easy", (True, 5), (False, 5), (False, 5), (False, 5))) == [90.0]


def test_a_third_is_medium_and_two_thirds_are_easy():
    assert [band(solved / 12) for solved in (0, 3, 4, 7, 8, 12)] == [0, 0, 1, 1, 2, 2]


def test_only_the_last_groups_count(outcome):
    targets = DifficultyTargets(shortest=10, longest=100, interval=10, window=2)
    for length in (11, 75, 75):
        targets.observe(outcome("x", *[(True, length)] * 4))
    assert read(targets, outcome("x", *[(True, 1)] * 4)) == [80.0]


@pytest.mark.parametrize(
    "arguments", [{"shortest": 0}, {"longest": 5}, {"interval": 0}, {"window": 0}]
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="1 <= shortest <= longest"):
        DifficultyTargets(**({"shortest": 10, "longest": 100, "interval": 10} | arguments))
