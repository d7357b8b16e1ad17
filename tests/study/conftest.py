"""A study of two arms and two seeds, and what its runs would leave, written without running them."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ceeh.config.study import UNTRAINED, load_study
from ceeh.evaluation.results import write_results
from ceeh.evaluation.store import SampleStore
from ceeh.run.resumed import write_config
from ceeh.study.plan import Plan, StudyRun, make_plan
from tests.run.test_metrics_file import FOREIGN

STUDY = """
name: mine
output: {output}
config: [ceeh.yaml]
baseline: none
arms:
  none: {{config: [methods/length_only.yaml]}}
  me: {{}}
seeds: [0, 1]
evaluation:
  sampling: {{plain: {{samples: 4}}, nucleus: {{samples: 4}}}}
  overrides: [bootstrap_draws=200, limit=30, hardware.threads=1, max_response_tokens=99]
"""
QUESTIONS = 30
CHANCE = {UNTRAINED: 0.5, "none": 0.6, "me": 0.8}
TOKENS = {UNTRAINED: 60, "none": 30, "me": 40}


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(output=tmp_path / "studies"))
    return file


@pytest.fixture
def plan_of(study_file: Path) -> Callable[..., Plan]:
    return lambda *overrides: make_plan(load_study(study_file, overrides))


def leave_training(run: StudyRun) -> None:
    assert run.config is not None
    run.folder.mkdir(parents=True)
    write_config(run.folder, run.config)
    entropy = {"none": 0.1, "me": 0.3}[run.arm] + 0.02 * run.seed
    rows = [{"rollout_step": step, "loss/entropy_hard": entropy / step} for step in range(1, 6)]
    rows[2]["loss/entropy_hard"] = None  # a step without hard questions
    lines = [json.dumps(row).encode() for row in rows]
    (run.folder / "metrics.jsonl").write_bytes(b"\n".join([*FOREIGN, *lines, b""]))
    (run.folder / "report.html").touch()


def leave_evaluation(plan: Plan, run: StudyRun) -> None:
    """Samples with the arm's accuracy and tokens; the first third of the questions is twice as hard."""
    store = SampleStore(run.evaluation)
    more = {"seed": run.seed, "limit": plan.protocol.limit, "questions_per_batch": 64}
    wanted = {
        name: {"settings": asdict(benchmark) | more, "skipped": {}, "model": {}}
        for name, benchmark in plan.benchmarks.items()
    }
    with ExitStack() as held:
        store.open(wanted, held)
    rng = np.random.default_rng(run.seed)
    for name, benchmark in plan.benchmarks.items():
        rows = []
        for index in range(QUESTIONS):
            chance = CHANCE[run.arm] / (2 if index < QUESTIONS / 3 else 1)
            rows += [
                {
                    "benchmark": name,
                    "index": index,
                    "uid": f"q{index}",
                    "question": "1+1?",
                    "reference": "02",
                    "sample": sample,
                    "response": "so 02",
                    "tokens": TOKENS[run.arm] + int(rng.integers(5)),
                    "finish": "stop",
                    "score": 1.0,
                    "correct": bool(rng.random() < chance),
                    "outcome": "graded",
                    "entropy": 0.1,
                }
                for sample in range(benchmark.samples)
            ]
        store.write(name, 0, rows)
    store.finish(list(plan.benchmarks))
    protocol = {"bootstrap_draws": plan.protocol.bootstrap_draws}
    write_results(store, name=run.name, model={"path": "starter"}, protocol=protocol)


def leave(plan: Plan, *names: str) -> None:
    """What the runs of these `names`, or all of them, leave when they have ended."""
    for run in plan.runs:
        if not names or run.name in names:
            if run.config is not None:
                leave_training(run)
            leave_evaluation(plan, run)
