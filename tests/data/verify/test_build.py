"""A custom verifier that fails is named, and its invalid verdicts are not trained on."""

import math
from dataclasses import replace

import pytest

from ceeh.config.component import Component
from ceeh.data.verify.build import CheckedVerifier, build_verifier
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.errors import ConfigError
from ceeh.types import GradingOutcome, Verdict
from tests.data.verify.scoring import CORRECT, group, verdict


class Custom(ExactAnswer):
    """An ExactAnswer whose scored groups go through `change`."""

    change = staticmethod(lambda scored: scored)

    def __call__(self, groups):
        return self.change(super().__call__(groups))


def scored(score):
    given = (Verdict(score=score, outcome=GradingOutcome.OK),)
    return lambda groups: [replace(group, verdicts=given) for group in groups]


def test_a_custom_verifier_is_checked_and_grades_as_before():
    custom = build_verifier(Component("tests.data.verify.test_build.Custom"))
    assert isinstance(custom, CheckedVerifier)
    assert verdict(custom, "55", "so 55") == CORRECT
    assert type(build_verifier(Component("ceeh.data.verify.ExactAnswer"))) is ExactAnswer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda groups: 1 / 0,
            r"failed in call; a custom verifier runs .* \(ZeroDivisionError: div",
        ),
        (lambda groups: groups[:1], "must return a list of 2 scored groups, got 1; a custom"),
        (lambda groups: 0.5, "must return a list of 2 scored groups, got a float"),
        (lambda groups: groups[::-1], "must return the scored group of 'a' in its place"),
        (lambda groups: [replace(g, verdicts=()) for g in groups], r"failed in call.*\(Assertion"),
        (
            scored(math.nan),
            "Verdicts with a score in .0, 1. and a GradingOutcome, got Verdict.score=nan",
        ),
        (scored(1.5), "got Verdict.score=1.5, outcome=.* for 'a'; a custom verifier"),
    ],
)
def test_its_mistakes_stop_the_run_with_its_name_and_the_cure(monkeypatch, change, message):
    monkeypatch.setattr(Custom, "change", staticmethod(change))
    groups = [group("55", "so 55", uid="a"), group("54", "so 54", uid="b")]
    with pytest.raises(ConfigError, match=rf"verifier: Custom .*{message}"):
        CheckedVerifier(Custom())(groups)
