"""From a study to its runs: their order and commands, and what is refused before the first one starts."""

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.evaluation.config import load_evaluation_config
from ceeh.study import main
from ceeh.study.plan import Plan, evaluate_command, fit_command, task, write_inputs
from tests.commands import assert_refused, said
from tests.study.conftest import leave, leave_evaluation, leave_training

PlanOf = Callable[..., Plan]


def test_every_seed_has_all_arms_before_the_next_seed_begins(plan_of: PlanOf) -> None:
    names = [run.name for run in plan_of().runs]
    assert names == ["untrained", "none-seed0", "me-seed0", "none-seed1", "me-seed1"]


def test_the_command_of_a_run_resolves_to_its_configuration_and_resumes(plan_of: PlanOf) -> None:
    plan = plan_of()
    run = plan.runs[3]
    python, minus, module, *arguments = fit_command(plan.study, run)
    assert (python, minus, module) == (sys.executable, "-m", "ceeh.fit")
    files = [after for word, after in pairwise(arguments) if word == "--config"]
    *overrides, last = [word for word in arguments if "=" in word]
    assert last == "ckpt_path=last"
    assert load(files, overrides) == run.config


def test_the_evaluation_reads_what_the_study_wrote(plan_of: PlanOf) -> None:
    plan = plan_of()
    write_inputs(plan)
    command = evaluate_command(plan, plan.runs[3])
    benchmarks = command[command.index("--benchmarks") + 1].split(",")
    overrides = [word for word in command if "=" in word]
    protocol, given = load_evaluation_config(benchmarks, [], overrides)
    assert given == plan.benchmarks
    assert protocol == replace(plan.protocol, seed=1)
    assert (protocol.limit, protocol.bootstrap_draws) == (30, 200)
    sampled = [(each.samples, each.temperature, each.top_p) for each in plan.benchmarks.values()]
    assert sampled == [(4, 1.0, 1.0), (4, 0.6, 0.95)]


def test_a_finished_step_is_not_run_again(plan_of: PlanOf) -> None:
    plan = plan_of()
    leave(plan, "untrained", "none-seed0")
    leave_training(plan.runs[2])
    left = {run.name: [step.words for step in task(plan, run).left] for run in plan.runs}
    assert left == {
        "untrained": [],
        "none-seed0": [],
        "me-seed0": ["evaluating"],
        "none-seed1": ["training", "evaluating"],
        "me-seed1": ["training", "evaluating"],
    }
    assert "accuracy " in task(plan, plan.runs[1]).result()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"format": 2, "benchmarks": []}', "{}"])
def test_an_evaluation_whose_results_cannot_be_read_is_made_again(
    plan_of: PlanOf, content: str
) -> None:
    plan = plan_of()
    run = plan.runs[0]
    leave_evaluation(plan, run)
    assert plan.evaluated(run)
    (run.evaluation / "results.json").write_text(content)
    assert not plan.evaluated(run)
    assert [step.words for step in task(plan, run).left] == ["evaluating"]


def test_another_arm_seed_or_benchmark_may_be_added(plan_of: PlanOf) -> None:
    leave(plan_of())
    more = plan_of("arms.ea.config=[methods/ea.yaml]", "seeds=[0, 1, 2]")
    states = {run.name: more.state(run) for run in more.runs}
    assert [name for name, state in states.items() if state == "to do"] == [
        *("ea-seed0", "ea-seed1"),
        *("none-seed2", "me-seed2", "ea-seed2"),
    ]
    another = plan_of("evaluation.sampling.cold={samples: 2, temperature: 0.1}")
    assert {another.state(run) for run in another.runs} == {"to be evaluated"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("overrides=[optimizer.lr=0.01]", "optimizer.lr=0.0003, now 0.01; remove that folder"),
        ("evaluation.sampling.plain.samples=8", "samples of starter-plain with samples=4, now 8"),
        ("evaluation.overrides=[limit=20]", "limit=30, now 20"),
    ],
)
def test_results_of_other_settings_are_refused_and_not_mixed(
    override: str, words: str, plan_of: PlanOf
) -> None:
    leave(plan_of(), "untrained", "none-seed0")
    with pytest.raises(ConfigError) as caught:
        plan_of(override)
    assert words in str(caught.value)


def test_all_arms_are_checked_before_the_first_run(study_file: Path, tmp_path: Path) -> None:
    answer = said(
        main,
        [
            str(study_file),
            "arms.a.overrides=[optimizer.lr=2.0]",
            "arms.b.overrides=[callbacks.difficulty=null]",
            "arms.c.config=[methods/no.yaml]",
        ],
    )
    assert_refused(
        answer,
        "arms.a: optimizer.lr must be greater than 0 and at most 1, got 2.0",
        "arms.b: ",
        "arms.c: no file 'methods/no.yaml'",
    )
    assert not (tmp_path / "studies").exists()


def test_a_wrong_evaluation_is_refused_before_the_first_run(study_file: Path) -> None:
    answer = said(main, [str(study_file), "evaluation.benchmarks=[startr]"])
    assert_refused(answer, "evaluation: no benchmark 'startr'; did you mean 'starter'?")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "you"], "--only: no arm 'you'; the arms are untrained, none, me"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--gpus", ","], "--gpus must list numbers"),
    ],
)
def test_a_wrong_option_is_refused(arguments: list[str], words: str, study_file: Path) -> None:
    assert_refused(said(main, [str(study_file), *arguments]), words)


def test_a_dry_run_lists_runs_and_settings_and_writes_nothing(
    study_file: Path, tmp_path: Path
) -> None:
    answer = said(main, [str(study_file), "--dry-run", "--only", "me"])
    assert answer.code == 0, answer.err
    assert "me-seed0: to do" in answer.out
    assert "none-seed0" not in answer.out
    none, _, me = answer.out.partition("none (baseline)\n")[2].partition("\nme\n")
    assert none.split() == [
        "objective.shaping.init_args.gate=false",
        "objective.entropy.method=none",
    ]
    assert me.partition("\nevaluation\n")[0].split() == [
        "objective.shaping.init_args.gate=true",
        "objective.entropy.method=me",
    ]
    assert not (tmp_path / "studies").exists()
