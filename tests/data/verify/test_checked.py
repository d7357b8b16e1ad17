"""CheckedVerifier: a verifier of the user's own fails with its name, and nonsense is not trained on."""

import math
from dataclasses import replace

import pytest

from ceeh.config.component import Component
from ceeh.data.verify.build import build_verifier
from ceeh.data.verify.checked import CheckedVerifier
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.errors import ConfigError
from ceeh.types import Outcome, ScoredGroup, Verdict
from tests.data.verify.scoring import RIGHT, group, verdict


class Own(ExactAnswer):
    """An ExactAnswer whose scored groups go through `change`."""

    change = staticmethod(lambda scored: scored)

    def __call__(self, groups):
        return self.change(super().__call__(groups))


def scored(score):
    """Every verdict with `score`."""

    def change(groups):
        return [
            ScoredGroup(
                group=g.group,
                verdicts=tuple(Verdict(score=score, outcome=Outcome.OK) for _ in g.verdicts),
            )
            for g in groups
        ]

    return change


def test_a_verifier_of_ones_own_is_checked_and_judges_as_before():
    own = build_verifier(Component("tests.data.verify.test_checked.Own"))
    assert isinstance(own, CheckedVerifier)
    assert verdict(own, "55", "so 55") == RIGHT
    shipped = build_verifier(Component("ceeh.data.verify.ExactAnswer"))
    assert type(shipped) is ExactAnswer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda groups: 1 / 0, "failed in call with ZeroDivisionError: division by zero"),
        (lambda groups: groups[:1], "must return a list of 2 scored groups, got 1;"),
        (lambda groups: 0.5, "must return a list of 2 scored groups, got a float"),
        (lambda groups: groups[::-1], "must return the group of 'a' scored, in its place"),
        (lambda groups: [replace(g, verdicts=()) for g in groups], "failed in call with Assertion"),
        (scored(math.nan), "Verdicts with a score in .0, 1. and an Outcome, got Verdict.score=nan"),
        (scored(1.5), r"got Verdict.score=1.5, outcome=.* for 'a'; a verifier of one's own"),
    ],
)
def test_what_goes_wrong_in_it_stops_the_run_with_its_name_and_the_cure(
    monkeypatch, change, message
):
    monkeypatch.setattr(Own, "change", staticmethod(change))
    own = CheckedVerifier(Own(), "mine.Own")
    with pytest.raises(ConfigError, match=rf"verifier: mine.Own .*{message}"):
        own([group("55", "so 55", uid="a"), group("54", "so 54", uid="b")])
