"""OptimalLength: which responses count, the three rules, first readings, resume."""

import math
import statistics

import pytest
import torch

from ceeh.callbacks.optimal_length import OptimalLength
from ceeh.types import Finish


def read(signal, uid):
    return signal.read(uid)["optimal_length"]


def test_only_correct_and_finished_responses_count(outcome):
    signal = OptimalLength()
    # 3 is wrong, 4 was cut off, 5 was given up; 9 and 7 are left.
    rows = [(False, 3), (True, 4, Finish.LENGTH), (True, 5, Finish.ABORT), (True, 9), (True, 7)]
    signal.observe(outcome("a", *rows))
    assert read(signal, "a") == 7


def test_the_ema_falls_by_a_fifth_and_rises_by_a_twentieth(outcome):
    signal = OptimalLength(rule="ema")
    readings = []
    for length in (100, 50, 190):
        signal.observe(outcome("a", (True, length)))
        readings.append(read(signal, "a"))
    # 100; 0.8 * 100 + 0.2 * 50 = 90; 0.95 * 90 + 0.05 * 190 = 95.
    assert readings == pytest.approx([100, 90, 95])


def test_the_median_is_of_the_last_window_of_group_minima(outcome):
    signal = OptimalLength(rule="median", window=3)
    readings = []
    for length in (10, 20, 60, 40):
        signal.observe(outcome("a", (True, length), (True, 99)))
        readings.append(read(signal, "a"))
    # 10; (10 + 20) / 2; 20; then 10 has left the window: 20, 60, 40.
    assert readings == [10, 15, 20, 40]


@pytest.mark.parametrize("rule", ["minimum", "ema", "median"])
def test_every_rule_matches_a_slow_reference_over_random_visits(outcome, rule):
    generator = torch.Generator().manual_seed(1)
    signal = OptimalLength(rule=rule, rise=0.1, fall=0.3, window=4)
    minima: dict[str, list[int]] = {}
    for _ in range(200):
        uid = f"q{int(torch.randint(6, (), generator=generator))}"
        correct = (torch.rand(3, generator=generator) < 0.3).tolist()
        lengths = torch.randint(1, 90, (3,), generator=generator).tolist()
        signal.observe(outcome(uid, *zip(correct, lengths, strict=True)))
        right = [length for flag, length in zip(correct, lengths, strict=True) if flag]
        minima.setdefault(uid, []).extend([min(right)] if right else [])

    def reference(history: list[int]) -> float:
        if rule == "minimum":
            return min(history)
        if rule == "median":
            return statistics.median(history[-4:])
        value = history[0]
        for length in history[1:]:
            value += (0.3 if length < value else 0.1) * (length - value)
        return value

    assert len(minima) == 6
    for uid, history in minima.items():
        assert read(signal, uid) == pytest.approx(reference(history))


def test_coverage_counts_the_seen_questions_with_a_value(outcome):
    signal = OptimalLength()
    signal.observe(outcome("a", (False, 2)))
    assert signal.metrics() == {"optimal_length_coverage": 0}
    for uid, length in (("b", 10), ("c", 20), ("d", 60)):
        signal.observe(outcome(uid, (True, length)))
    # a has none: 3 of 4; (10 + 20 + 60) / 3 = 30.
    assert signal.metrics() == {"optimal_length_coverage": 0.75, "optimal_length_mean": 30}


@pytest.mark.parametrize("rule", ["minimum", "ema", "median"])
def test_first_value_is_the_groups_own_and_later_ones_are_history_alone(fit, batch, rule):
    steps = [
        batch(("a", [(True, 9), (True, 5)]), ("b", [(False, 4)])),
        batch(("a", [(True, 3)]), ("b", [(True, 6)])),
    ]
    _, module = fit([OptimalLength(rule=rule)], steps)
    first, second = (step["optimal_length"] for step in module.seen)
    assert first[0] == 5
    assert math.isnan(first[1])
    # a by its history 5, not by today's 3; b has its first correct response today.
    assert second == [5, 6]


def test_a_first_visit_may_have_no_value_at_all(fit, batch):
    steps = [batch(("a", [(True, 9), (True, 5)])), batch(("a", [(True, 3)]))]
    _, module = fit([OptimalLength(from_own_group=False)], steps)
    first, second = (step["optimal_length"][0] for step in module.seen)
    assert math.isnan(first)
    assert second == 5


def test_the_own_groups_rule_forgets_every_visit(fit, batch):
    steps = [
        batch(("a", [(True, 9), (True, 5)]), ("b", [(True, 4)])),
        batch(("a", [(True, 30), (False, 2)]), ("b", [(False, 1)])),
    ]
    _, module = fit([OptimalLength(rule="own_group")], steps)
    first, second = (step["optimal_length"] for step in module.seen)
    assert first == [5, 4]
    assert second[0] == 30
    assert math.isnan(second[1])  # no correct response: no anchor, whatever was known


def test_resuming_with_another_rule_is_refused():
    with pytest.raises(ValueError, match="rule is 'minimum', but the checkpoint's lengths follow"):
        OptimalLength().load_state_dict(OptimalLength(rule="ema").state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rise": 0.0}, r"rise must be in \(0, 1\], got 0.0"),
        ({"fall": 2.0}, r"fall must be in \(0, 1\], got 2.0"),
        ({"window": 0}, "window must be at least 1, got 0"),
    ],
)
def test_an_argument_outside_its_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OptimalLength(**arguments)
