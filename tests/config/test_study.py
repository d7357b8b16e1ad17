"""A study's file: what it is checked for, and what its runs resolve to."""

import re
from pathlib import Path

import pytest

from ceeh.config.packaged import CONFIGS
from ceeh.config.study import StudyConfig, StudyEvaluation, load_run, load_study, sampling_words
from ceeh.errors import ConfigError

STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
BASE = """
name: mine
config: [ceeh.yaml]
overrides: [rollouts.steps=7, optimizer.lr=0.001]
baseline: none
arms:
  none: {config: [methods/length_only.yaml]}
  me: {overrides: [optimizer.lr=0.002]}
seeds: [3, 4]
"""


def study(folder: Path, *overrides: str, text: str = BASE) -> StudyConfig:
    file = folder / "study.yaml"
    file.write_text(text)
    return load_study(file, overrides)


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_shipped_study_has_arms_that_load(file: Path) -> None:
    shipped = load_study(file)
    assert shipped.name == file.stem
    assert len(shipped.seeds) == 3
    for arm in shipped.arms:
        load_run(shipped, arm, shipped.seeds[0])


def test_the_attribution_study_crosses_entropy_and_gate() -> None:
    shipped = load_study(CONFIGS / "studies" / "ceeh.yaml")
    found = {}
    for arm in shipped.arms:
        objective = load_run(shipped, arm, 0).objective
        if objective.shaping.class_path.endswith("OptimalLengthPenalty"):
            found[arm] = (objective.entropy.method, objective.shaping.init_args["gate"])
    for arm in ("none", "uniform", "me", "hard_only", "ea"):
        method = "uniform_mean" if arm == "uniform" else arm
        assert found[arm] == (method, False)
        assert found[f"{arm}_gate"] == (method, True)


def test_a_run_is_the_studys_files_then_the_arms_then_the_studys_own_settings(
    tmp_path: Path,
) -> None:
    mine = study(tmp_path, "output=here")
    none, me = (load_run(mine, arm, 4) for arm in ("none", "me"))
    assert (none.rollouts.steps, none.optimizer.lr, me.optimizer.lr) == (7, 0.001, 0.002)
    assert (none.objective.entropy.method, me.objective.entropy.method) == ("none", "me")
    assert (none.name, none.seed, none.output) == ("none-seed4", 4, "here/mine/runs")


def test_sampling_settings_are_merged_with_the_two_that_are_there(tmp_path: Path) -> None:
    mine = study(tmp_path, "evaluation.sampling.nucleus.samples=8").evaluation.sampling
    assert {name: (each.samples, sampling_words(each)) for name, each in mine.items()} == {
        "plain": (64, "temperature 1"),
        "nucleus": (8, "temperature 0.6, top-p 0.95"),
    }
    assert list(study(tmp_path, "evaluation.sampling.nucleus=null").evaluation.sampling) == [
        "plain"
    ]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("baseline=non", "baseline must be one of the arms, none, me, got 'non'"),
        ("seeds=[]", r"seeds must be at least one number, each once, .* got \[\]"),
        ("seeds=[1, 1]", r"seeds must be .* each once, .* got \[1, 1\]"),
        ("seeds=[-1]", r"seeds must be .* from 0 to 4294967295, got \[-1\]"),
        ("arms.a.b={}", "arms.a.b is not a setting; the settings here are config, overrides"),
        ("arms={'a/b': {}}", r"arms must be .* letters, digits.* got \['none', 'me', 'a/b'\]"),
        ("arms={untrained: {}}", "arms.untrained: the report calls the starting model so"),
        (
            "arms.me.confg=[a.yaml]",
            r"arms.me.confg is not a setting; did you mean arms.me.config\?",
        ),
        ("arms.me.overrides=a=1", "arms.me.overrides must be a list of text"),
        ("overrides=[seed=1]", "overrides: seed is set by the study: list seeds under seeds"),
        ("arms.me.overrides=[output=x]", "arms.me.overrides: output is set by the study"),
        (
            "evaluation.sampling.plain.samples=0",
            "evaluation.sampling.plain.samples must be at least 1, got 0",
        ),
        (
            "evaluation.sampling.plain.top_p=1.5",
            r"evaluation.sampling.plain.top_p must be in \(0, 1\], got 1.5",
        ),
        ("config=[]", r"config must be with at least one entry, got \[\]"),
    ],
)
def test_a_mistake_is_told_with_its_place_rule_and_value(
    override: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        study(tmp_path, override)


def test_a_study_without_arms_says_all_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        study(tmp_path, text="config: [ceeh.yaml]\n")
    for name in ("name", "arms", "baseline"):
        assert f"{name} is missing and must be given" in str(caught.value)


def test_a_wrong_arm_is_named_with_each_of_its_problems(tmp_path: Path) -> None:
    mine = study(tmp_path, "arms.me.overrides=[optimizer.lr=2.0, rollouts.steps=0]")
    with pytest.raises(ConfigError) as caught:
        load_run(mine, "me", 3)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("arms.me: ") for line in lines)


def test_the_study_of_the_documentation_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "study.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    mine = study(tmp_path, text=text)
    assert [load_run(mine, arm, 0).objective.entropy.coefficient for arm in mine.arms] == [
        *(0.02, 0.02, 0.05)
    ]
    assert mine.evaluation.sampling == StudyEvaluation().sampling
