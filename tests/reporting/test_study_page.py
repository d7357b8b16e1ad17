"""The study's page: who is on the front, and what is drawn when little is there."""

from ceeh.reporting.study_page import around, front
from ceeh.reporting.style import smooth


def test_the_front_has_the_arms_that_none_beats_or_equals_on_both() -> None:
    points = {
        "long": (60.0, 92.0),
        "short": (30.0, 85.0),
        "equal": (30.0, 85.0),
        "worse": (40.0, 84.0),  # short is shorter and better
        "middle": (45.0, 90.0),
        "longer": (70.0, 92.0),  # long is as good and shorter
    }
    assert front(points) == ["short", "middle", "long"]
    assert front({}) == []


def test_a_curve_is_smoothed_over_a_tenth_of_its_steps() -> None:
    assert smooth([1.0, 5.0]).tolist() == [1.0, 5.0]
    values = [0.0] * 15 + [3.0] + [0.0] * 14  # 30 steps: a window of 3
    assert smooth(values)[14:17].tolist() == [1.0, 1.0, 1.0]


def test_a_bar_is_the_interval_of_the_change_around_the_arms_own_value() -> None:
    metric = {"value": 40.0, "low": 20.0, "high": 60.0}
    change = {"tokens": {"value": -5.0, "low": -6.0, "high": -3.0}}
    assert around(metric, change, "tokens") == {"value": 40.0, "low": 39.0, "high": 42.0}
    assert around(metric, None, "tokens") == {"value": 40.0, "low": 40.0, "high": 40.0}
