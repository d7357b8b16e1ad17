"""A study from its plan to its report."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ceeh.config.study import StudyConfig
from ceeh.errors import RunError
from ceeh.reporting.study_page import arms_grid, changes_grid, write_study_page
from ceeh.run.atomic import atomic_write_text
from ceeh.runtime.distributed import say
from ceeh.runtime.text import redact
from ceeh.study.plan import Plan, make_plan, resolved, task, write_inputs
from ceeh.study.record import build_record
from ceeh.study.runner import Runner

FILE = "results.json"


def run(study: StudyConfig, only: Sequence[str], slots: Sequence[Mapping[str, str]]) -> None:
    """Runs what is left of the study, or of the arms in `only`, and writes the report.

    One run at a time in each of the `slots`, which are variables of the environment. Raises ConfigError
    before the first run for a wrong arm, and RunError after the last one where some failed.
    """
    plan = make_plan(study)
    write_inputs(plan)
    tasks = [task(plan, each) for each in plan.runs if not only or each.arm in only]
    failures = Runner(tasks, slots).run()
    write_report(plan, failures)
    if failures:
        listed = "\n".join(f"{name}: {words}" for name, words in failures.items())
        raise RunError(
            f"{len(failures)} of {len(tasks)} runs failed; the same command tries them again\n{listed}"
        )


def report(study: StudyConfig, only: Sequence[str]) -> None:
    """Writes the report of the runs that are there: of all arms, or of those in `only` and the baseline."""
    if only:
        kept = {name: arm for name, arm in study.arms.items() if name in (*only, study.baseline)}
        study = replace(study, arms=kept)
    write_report(make_plan(study), {})


def write_report(plan: Plan, failures: Mapping[str, str]) -> Path:
    """Writes results.json, report.html, report.md and report.png, and prints the tables."""
    record = build_record(plan, failures)
    folder = plan.study.folder
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / FILE, json.dumps(record, indent=2) + "\n")
    page = write_study_page(folder, record, settings=settings_text(plan))
    for setting in record["sampling"].values():
        if setting["subsets"]:  # what else the page shows is too wide for a terminal
            say(f"{arms_grid(record, setting).text()}\n\n{changes_grid(record, setting).text()}\n")
    for line in record["missing"]:
        say(f"missing: {line}")
    say(f"{folder / FILE}; report: {page}")
    return page


def dry_run(study: StudyConfig, only: Sequence[str]) -> None:
    """Checks the study and prints its runs and their settings."""
    plan = make_plan(study)
    say(f"study {study.name}: {len(plan.arms)} arms x {len(study.seeds)} seeds, in {study.folder}")
    say(f"\n{settings_text(plan)}\n\nruns")
    for each in plan.runs:
        if not only or each.arm in only:
            say(f"  {each.name}: {plan.state(each)}")
            for step in task(plan, each).steps:
                say(f"    {redact(shlex.join(step.command))}")


def settings_text(plan: Plan) -> str:
    """What differs from the defaults: in all arms, and in each."""
    lines = []
    for arm, settings in resolved(plan).items():
        baseline = " (baseline)" if arm == plan.study.baseline else ""
        lines += [f"{arm}{baseline}", *(f"  {each}" for each in settings)]
    lines.append("evaluation")
    lines += [
        f"  {name}: {each.title}, {each.samples} samples" for name, each in plan.benchmarks.items()
    ]
    return "\n".join(lines)
