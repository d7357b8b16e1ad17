"""The configuration of a study: arms, each a run's configuration, times seeds, and their evaluation."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

from ceeh.config.consistency import check_pairs
from ceeh.config.loading import merged
from ceeh.config.rules import (
    FILE_NAME,
    LOCATION,
    POSITIVE,
    UNIT_ABOVE_0,
    Rule,
    at_least,
    setting,
)
from ceeh.config.settings import Config, load
from ceeh.errors import ConfigError

UNTRAINED = "untrained"
"""The model that the baseline arm starts from: evaluated once, as an arm without training."""
OF_THE_STUDY = {
    "seed": "list seeds under seeds",
    "name": "a run is called ARM-seedN",
    "output": "runs go into runs/ of the study's folder",
    "ckpt_path": "a study resumes its runs itself",
}
"""Settings of a run that the study sets, and where to say it instead."""

SEEDS = Rule(
    "at least one number, each once, from 0 to 4294967295",
    lambda seeds: (
        bool(seeds) and len(set(seeds)) == len(seeds) and all(0 <= each < 2**32 for each in seeds)
    ),
)
NOT_EMPTY = Rule("with at least one entry", bool)
NAMED = Rule(
    f"with at least one entry; a name is a part of file names: {FILE_NAME.words}",
    lambda entries: bool(entries) and all(map(FILE_NAME.holds, entries)),
)


@dataclass(frozen=True)
class Arm:
    config: list[str] = setting([], "YAML files over those of the study.")
    overrides: list[str] = setting([], "key=value over those of the study.")


@dataclass(frozen=True)
class SamplingSetting:
    samples: int = setting(64, "Responses per question; pass@k is reported up to it.", at_least(1))
    temperature: float = setting(1.0, "Sampling temperature.", POSITIVE)
    top_p: float = setting(1.0, "Nucleus sampling.", UNIT_ABOVE_0)


@dataclass(frozen=True)
class StudyEvaluation:
    benchmarks: list[str] = setting(
        ["starter"], "As for --benchmarks of ceeh.evaluate: names or files.", NOT_EMPTY
    )
    sampling: dict[str, SamplingSetting] = setting(
        {
            "plain": SamplingSetting(),
            "nucleus": SamplingSetting(temperature=0.6, top_p=0.95),
        },
        "Every benchmark is sampled once with each. Null removes one.",
        NAMED,
    )
    overrides: list[str] = setting(
        [], "key=value of ceeh.evaluate, e.g. limit=200; its seed is that of the run."
    )


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    name: str = setting(MISSING, "Name of the study's folder.", FILE_NAME)
    output: str = setting("studies", "Parent of the studies' folders.", LOCATION, path=True)
    config: list[str] = setting(MISSING, "YAML files of a run, common to all arms.", NOT_EMPTY)
    overrides: list[str] = setting([], "key=value of a run, common to all arms.")
    arms: dict[str, Arm] = setting(MISSING, "By name: what an arm changes.", NAMED)
    baseline: str = setting(MISSING, "The arm that the others are compared with.")
    seeds: list[int] = setting([0, 1, 2], "Each arm is run with each.", SEEDS)
    evaluation: StudyEvaluation = setting(
        StudyEvaluation, "How the trained models are sampled, and the untrained one."
    )

    @property
    def folder(self) -> Path:
        return Path(self.output, self.name)


def load_study(file: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study in `file` with `key=value` overrides; see `merged`.

    Raises ConfigError for what `merged` refuses, and for names and overrides that contradict each other.
    """
    study = merged([file], overrides, StudyConfig)
    if UNTRAINED in study.arms:
        raise ConfigError(
            f"arms.{UNTRAINED}: the report calls the starting model so; take another name"
        )
    if study.baseline not in study.arms:
        raise ConfigError(
            f"baseline must be one of the arms, {', '.join(study.arms)}, got '{study.baseline}'"
        )
    places = {"overrides": study.overrides}
    places |= {f"arms.{name}.overrides": arm.overrides for name, arm in study.arms.items()}
    for place, given in places.items():
        for override in given:
            key = override.partition("=")[0]
            if key in OF_THE_STUDY:
                raise ConfigError(f"{place}: {key} is set by the study: {OF_THE_STUDY[key]}")
    return study


def load_run(study: StudyConfig, arm: str, seed: int) -> Config:
    """The configuration of a run. Raises ConfigError, naming the arm, for what a run would refuse at once."""
    try:
        config = load([*study.config, *study.arms[arm].config], run_overrides(study, arm, seed))
        check_pairs(config, 1)
    except ConfigError as error:
        lines = (f"arms.{arm}: {line}" for line in str(error).splitlines())
        raise ConfigError("\n".join(lines)) from error
    return config


def run_overrides(study: StudyConfig, arm: str, seed: int) -> list[str]:
    """The `key=value` arguments of a run: the study's, the arm's, and what the study sets."""
    return [
        *study.overrides,
        *study.arms[arm].overrides,
        f"seed={seed}",
        f"name={run_name(arm, seed)}",
        f"output={study.folder / 'runs'}",
    ]


def run_name(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


def sampling_words(sampling: SamplingSetting) -> str:
    top_p = "" if sampling.top_p == 1 else f", top-p {sampling.top_p:g}"
    return f"temperature {sampling.temperature:g}{top_p}"
