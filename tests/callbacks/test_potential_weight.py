"""PotentialScaledWeight: LEAD's weight by hand, its minimum, and what a step without a solution does."""

import math

import pytest

from ceeh.callbacks.potential_weight import PotentialScaledWeight

LIMITS = {"shortest": 10, "longest": 100}


def test_the_weight_by_hand(outcome):
    groups = [
        outcome("a", (True, 20), (True, 40), (False, 90), (False, 90)),
        outcome("b", (True, 50), (True, 50), (True, 50), (True, 50)),
    ]
    # Correctness: means 0.5 and 1, variances 0.25 and 0: mean 0.75, std sqrt(0.125 + 0.0625) = 0.433013,
    # CV 0.577350, potential 0.25. Efficiency of correct responses: L* = 30: 1 - 10/30 twice; L* = 50: 1;
    # mean 0.833333, std sqrt(0 + 0.0277778) = 0.166667, CV 0.2, potential 1 - 1.833333 / 2 = 0.083333.
    # D: 0.742734 * 0.25 = 0.185684; 0.257266 * 0.083333 = 0.021439; share 0.896490.
    signal = PotentialScaledWeight(**LIMITS, momentum=0.9)
    assert signal.updated(groups, []) == pytest.approx(0.9 * 0.5 + 0.1 * 0.896490, rel=1e-5)


def test_the_signal_is_never_below_its_minimum(outcome):
    signal = PotentialScaledWeight(**LIMITS, momentum=0.0)
    # All correct: nothing to gain in correctness, all weight on efficiency.
    signal.after_step([outcome("a", (True, 20), (True, 40)), outcome("b", (True, 30))], [])
    assert signal.coefficient == pytest.approx(0.0, abs=1e-6)
    assert signal.read("a") == {"correctness_weight": 0.3}


def test_a_step_without_a_correct_response_puts_no_weight_on_efficiency(outcome):
    signal = PotentialScaledWeight(**LIMITS, momentum=0.0)
    signal.after_step([outcome("a", (False, 20), (False, 40))], [])
    assert math.isfinite(signal.coefficient)
    assert signal.coefficient == pytest.approx(1.0, rel=1e-3)
