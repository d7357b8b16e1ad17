"""From a study's configuration to its runs: the commands of each, and whether what is there fits them."""

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

from ceeh.assembly.components import build_callbacks, check_trainer
from ceeh.config.settings import Config
from ceeh.config.study import (
    OF_THE_STUDY,
    UNTRAINED,
    StudyConfig,
    load_run,
    run_name,
    run_overrides,
    sampling_words,
)
from ceeh.config.typed import shown, shown_option
from ceeh.config.writing import to_public_yaml, to_yaml
from ceeh.data.benchmarks import Benchmark, benchmark_name
from ceeh.errors import ConfigError
from ceeh.evaluation.config import EvaluationConfig, load_evaluation_config
from ceeh.evaluation.results import FILE, read_results, read_results_file
from ceeh.evaluation.store import SampleStore
from ceeh.run.atomic import atomic_write_text
from ceeh.run.places import STUDY, check_report_folder
from ceeh.run.resumed import changed_settings
from ceeh.runtime.text import flatten, redact
from ceeh.study.runner import Step, Task

EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudyRun:
    """An arm with one seed; `config` is None for the model that is evaluated without training."""

    arm: str
    seed: int
    folder: Path
    config: Config | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def evaluation(self) -> Path:
        return self.folder / EVALUATION

    @property
    def trained(self) -> bool:
        """Whether training ended: its page is written last."""
        return self.config is None or (self.folder / "report.html").is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The runs in their order, and how all of them are evaluated.

    `benchmarks` has one entry per benchmark and sampling setting, `sampling` the names of those of each
    sampling setting.
    """

    study: StudyConfig
    arms: Mapping[str, Config]
    runs: Sequence[StudyRun]
    protocol: EvaluationConfig
    benchmarks: Mapping[str, Benchmark]
    sampling: Mapping[str, Sequence[str]]

    def evaluated(self, run: StudyRun) -> bool:
        """Whether the run's evaluation has all benchmarks; one that cannot be read is made again."""
        file = run.evaluation / FILE
        with suppress(ConfigError):
            if record := read_results_file(file):
                return self.benchmarks.keys() <= record["benchmarks"].keys()
        return False

    def state(self, run: StudyRun) -> str:
        if run.trained:
            return "ended" if self.evaluated(run) else "to be evaluated"
        return "unfinished" if run.folder.is_dir() else "to do"


def make_plan(study: StudyConfig) -> Plan:
    """The plan of `study`, every arm checked.

    The seeds come one after another, with all arms in each, so that an unfinished study compares all arms.
    Raises ConfigError for a wrong arm, evaluation or benchmark, and for results that other settings made.
    """
    arms = check_arms(study)
    try:
        protocol, given = load_evaluation_config(
            study.evaluation.benchmarks, [], study.evaluation.overrides
        )
    except ConfigError as error:
        raise ConfigError(f"evaluation: {error}") from error
    benchmarks, sampling = {}, {}
    for setting, how in study.evaluation.sampling.items():
        sampling[setting] = [f"{name}-{setting}" for name in given]
        for name, benchmark in given.items():
            title = f"{benchmark.title}, {sampling_words(how)}"
            benchmarks[f"{name}-{setting}"] = replace(benchmark, title=title, **asdict(how))
    for name in benchmarks:
        if benchmark_name(f"{name}.yaml") != name:
            raise ConfigError(
                f"evaluation.sampling: '{name}', a benchmark with a sampling setting, ends like a file; "
                "rename the setting"
            )
    runs = [untrained(study, protocol.seed)]
    runs += [
        StudyRun(
            arm=arm,
            seed=seed,
            folder=study.folder / "runs" / run_name(arm, seed),
            config=load_run(study, arm, seed),
        )
        for seed in study.seeds
        for arm in arms
    ]
    check_report_folder(study.folder, "output:", STUDY)
    plan = Plan(
        study=study,
        arms=arms,
        runs=runs,
        protocol=protocol,
        benchmarks=benchmarks,
        sampling=sampling,
    )
    if problems := [problem for run in runs for problem in changed(plan, run)]:
        raise ConfigError("\n".join(problems))
    return plan


def check_arms(study: StudyConfig) -> dict[str, Config]:
    """The configuration of each arm with the first seed. Raises ConfigError for all that are wrong."""
    found, problems = {}, []
    for arm in study.arms:
        try:
            found[arm] = load_run(study, arm, study.seeds[0])
        except ConfigError as error:
            problems.append(str(error))
            continue
        try:
            check_trainer(found[arm].trainer)
            build_callbacks(found[arm])
        except ConfigError as error:
            problems.append(f"arms.{arm}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def untrained(study: StudyConfig, seed: int) -> StudyRun:
    return StudyRun(arm=UNTRAINED, seed=seed, folder=study.folder / "runs" / UNTRAINED, config=None)


def changed(plan: Plan, run: StudyRun) -> list[str]:
    """What is in the run's folder and was made with other settings than the plan's, in words."""
    cure = "remove that folder, or give the study another name"
    if run.config is not None and (run.folder / "config.yaml").is_file():
        differing = changed_settings(run.folder, run.config)
        if differing:
            what = ", ".join(f"{k}={shown(a)}, now {shown(b)}" for k, (a, b) in differing.items())
            return [f"arms.{run.arm}: '{run.folder}' was made with {what}; {cure}"]
    found = []
    recorded = SampleStore(run.evaluation).recorded()
    for name, benchmark in plan.benchmarks.items():
        if name not in recorded:
            continue
        there = flatten(recorded[name]["settings"])
        now = flatten(asdict(benchmark) | {"seed": run.seed, "limit": plan.protocol.limit})
        differing = [key for key, value in now.items() if there.get(key) != value]
        if differing:
            what = ", ".join(f"{k}={shown(there.get(k))}, now {shown(now[k])}" for k in differing)
            found.append(
                f"evaluation: '{run.evaluation}' has samples of {name} with {what}; {cure}"
            )
    return found


def write_inputs(plan: Plan) -> None:
    """Writes each benchmark with its sampling, which the commands read, and the study itself."""
    folder = plan.study.folder
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "study.yaml", to_public_yaml(plan.study))
    for name, benchmark in plan.benchmarks.items():
        atomic_write_text(benchmark_file(plan, name), to_yaml(benchmark))


def benchmark_file(plan: Plan, name: str) -> Path:
    return plan.study.folder / "benchmarks" / f"{name}.yaml"


def task(plan: Plan, run: StudyRun) -> Task:
    """The run as commands: `ceeh.fit`, resuming what is there, then `ceeh.evaluate`."""
    steps = []
    if run.config is not None:
        command = fit_command(plan.study, run)
        steps.append(Step(words="training", command=command, done=lambda: run.trained))
    steps.append(
        Step(
            words="evaluating",
            command=evaluate_command(plan, run),
            done=partial(plan.evaluated, run),
        )
    )
    return Task(
        name=run.name,
        steps=steps,
        log=plan.study.folder / "logs" / f"{run.name}.log",
        result=partial(result_line, plan, run),
    )


def fit_command(study: StudyConfig, run: StudyRun) -> list[str]:
    files = [*study.config, *study.arms[run.arm].config]
    given = [part for file in files for part in ("--config", file)]
    overrides = run_overrides(study, run.arm, run.seed)
    return [sys.executable, "-m", "ceeh.fit", *given, *overrides, "ckpt_path=last"]


def evaluate_command(plan: Plan, run: StudyRun) -> list[str]:
    model = plan.arms[plan.study.baseline].model if run.config is None else run.config.model
    place = model.path if run.config is None else str(run.folder)
    files = ",".join(str(benchmark_file(plan, name)) for name in plan.benchmarks)
    command = [sys.executable, "-m", "ceeh.evaluate", place, "--benchmarks", files]
    command += ["--output", str(run.evaluation)]
    own = {
        item.name for item in fields(EvaluationConfig)
    }  # the others are in the benchmarks' files
    given = plan.study.evaluation.overrides
    command += [each for each in given if re.split(r"[.=]", each)[0] in own]
    command.append(f"seed={run.seed}")
    return command + (["--trust-remote-code"] if model.trust_remote_code else [])


def result_line(plan: Plan, run: StudyRun) -> str:
    """Accuracy and tokens with the first sampling setting, over the benchmarks."""
    record = read_results(str(run.evaluation)).record
    names = next(iter(plan.sampling.values()))
    of_each = [record["benchmarks"][name]["metrics"] for name in names]
    accuracy, tokens = (
        sum(each[metric]["value"] for each in of_each) / len(of_each)
        for metric in ("accuracy", "tokens")
    )
    return f"accuracy {100 * accuracy:.1f} %, {tokens:.1f} tokens"


def resolved(plan: Plan) -> dict[str, list[str]]:
    """`key=value` of the settings that all arms share and that are not defaults, then of each arm's own."""
    defaults = flatten(asdict(Config()))
    of_arms = {
        arm: {k: v for k, v in flatten(redact(asdict(config))).items() if k not in OF_THE_STUDY}
        for arm, config in plan.arms.items()
    }
    first, *others = of_arms.values()
    shared = {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}
    found = {"all arms": {k: v for k, v in shared.items() if k not in defaults or defaults[k] != v}}
    for arm, settings in of_arms.items():
        found[arm] = {k: v for k, v in settings.items() if k not in shared}
    return {
        arm: [f"{key}={shown_option(value)}" for key, value in settings.items()]
        for arm, settings in found.items()
    }
