"""results.json of a study: pooled over seeds, paired, partial; and the page made of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ceeh.evaluation.results import read_results
from ceeh.reporting.study_page import study_grids
from ceeh.study import main
from ceeh.study.plan import Plan
from ceeh.study.record import build_record
from tests.commands import said
from tests.study.conftest import QUESTIONS, leave, leave_evaluation

PlanOf = Callable[..., Plan]


@pytest.fixture
def whole(plan_of: PlanOf) -> tuple[Plan, dict[str, Any]]:
    plan = plan_of()
    leave(plan)
    return plan, build_record(plan, {})


def values(plan: Plan, arm: str, metric: str) -> list[float]:
    return [
        read_results(str(run.evaluation)).record["benchmarks"]["starter-plain"]["metrics"][metric][
            "value"
        ]
        for run in plan.runs
        if run.arm == arm
    ]


def test_a_value_is_the_mean_over_seeds_and_a_change_their_difference(whole) -> None:
    plan, record = whole
    part = record["sampling"]["plain"]["subsets"]["all"]
    for metric in ("accuracy", "tokens", "pass_at_4"):
        means = {arm: sum(values(plan, arm, metric)) / 2 for arm in ("none", "me")}
        for arm, mean in means.items():
            assert part["arms"][arm][metric]["value"] == pytest.approx(mean)
        change = part["changes"]["me"][metric]
        assert change["value"] == pytest.approx(means["me"] - means["none"])
        assert change["low"] <= change["value"] <= change["high"]
    assert record["missing"] == []
    assert record["arms"] == {"none": [0, 1], "me": [0, 1]}


def test_hard_questions_are_those_the_untrained_model_fails_and_its_own_row_is_left_out(
    whole,
) -> None:
    plan, record = whole
    subsets = record["sampling"]["plain"]["subsets"]
    table = read_results(str(plan.runs[0].evaluation)).benchmarks["starter-plain"].table
    accuracy = table.correct.double().mean(1)
    assert subsets["hard"]["questions"] == int((accuracy < accuracy.mean() - 1e-6).sum())
    assert subsets["hard"]["questions"] + subsets["easy"]["questions"] == QUESTIONS
    hard, easy = (subsets[name]["arms"]["me"]["accuracy"]["value"] for name in ("hard", "easy"))
    assert hard < easy
    assert "untrained" in subsets["all"]["arms"]
    assert "untrained" not in subsets["hard"]["arms"]


def test_wins_of_two_arms_add_up_and_follow_the_metrics(whole) -> None:
    wins = whole[1]["sampling"]["plain"]["wins"]
    for shares in wins.values():
        assert shares["none"]["me"] + shares["me"]["none"] == pytest.approx(1)
    assert wins["accuracy"]["me"]["none"] > 0.95  # 0.8 against 0.6
    assert wins["tokens"]["none"]["me"] == 1.0  # 30 against 40 tokens: fewer is better
    assert wins["tokens"]["untrained"]["me"] == 0.0


def test_the_entropy_curve_is_the_mean_over_seeds_where_there_were_hard_questions(whole) -> None:
    curve = whole[1]["entropy"]["me"]
    assert curve["rollout_step"] == [1, 2, 4, 5]
    assert curve["mean"] == pytest.approx([0.31 / step for step in (1, 2, 4, 5)])
    assert (curve["low"][0], curve["high"][0]) == pytest.approx((0.30, 0.32))


def test_a_partial_study_pairs_the_seeds_that_both_arms_have(plan_of: PlanOf) -> None:
    plan = plan_of()
    leave(plan, "untrained", "none-seed0", "none-seed1", "me-seed1")
    record = build_record(plan, {"me-seed0": "training: status 1"})
    assert record["missing"] == ["me-seed0: training: status 1"]
    part = record["sampling"]["plain"]["subsets"]["all"]
    none = values(plan, "none", "accuracy")
    of_me = read_results(str(plan.runs[4].evaluation)).record["benchmarks"]["starter-plain"]
    change = of_me["metrics"]["accuracy"]["value"] - none[1]
    assert part["changes"]["me"]["accuracy"]["value"] == pytest.approx(change)
    assert part["arms"]["none"]["accuracy"]["value"] == pytest.approx(sum(none) / 2)


def test_without_the_untrained_model_the_report_says_that_hard_is_unknown(plan_of: PlanOf) -> None:
    plan = plan_of()
    leave(plan, "none-seed0")
    record = build_record(plan, {})
    assert list(record["sampling"]["plain"]["subsets"]) == ["all"]
    assert "untrained: to be evaluated" in record["missing"]
    assert any(line.startswith("easy and hard questions: ") for line in record["missing"])
    assert study_grids(record)


@pytest.mark.parametrize("there", ["all", "none"])
def test_the_report_is_written_of_what_is_there(
    there: str, study_file: Path, plan_of: PlanOf, tmp_path: Path
) -> None:
    if there == "all":
        leave(plan_of())
    answer = said(main, [str(study_file), "--report"])
    assert answer.code == 0, answer.err
    folder = tmp_path / "studies" / "mine"
    page, text = ((folder / f"report.{end}").read_text() for end in ("html", "md"))
    assert ("data:image/png;base64," in page) == (there == "all")
    assert (folder / "report.png").is_file()
    assert json.loads((folder / "results.json").read_text())["name"] == "mine"
    for written in (page, text, answer.out):
        assert ("change against none, paired" in written) == (there == "all")
        assert ("missing: me-seed1: to do" in written) == (there == "none")


def test_a_report_of_some_arms_has_the_baseline_too(
    study_file: Path, plan_of: PlanOf, tmp_path: Path
) -> None:
    leave(plan_of())
    for only, arms in (("me", ["none", "me"]), ("none", ["none"])):
        answer = said(main, [str(study_file), "--report", "--only", only])
        assert answer.code == 0, answer.err
        folder = tmp_path / "studies" / "mine"
        assert list(json.loads((folder / "results.json").read_text())["arms"]) == arms
        assert ("| all | me |" in (folder / "report.md").read_text()) == (only == "me")


def test_an_evaluation_of_other_questions_is_refused(plan_of: PlanOf, monkeypatch) -> None:
    plan = plan_of()
    leave(plan, "untrained")
    monkeypatch.setattr("tests.study.conftest.QUESTIONS", QUESTIONS + 1)
    run = plan.runs[1]
    run.folder.mkdir(parents=True)
    leave_evaluation(plan, run)
    with pytest.raises(ValueError, match="none-seed0, starter-plain: it has 31 questions"):
        build_record(plan, {})
