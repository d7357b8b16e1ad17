"""Descriptions: every setting and metric has one, and the pages and --help-config show it."""

import re
from pathlib import Path

import pytest

from ceeh import evaluate, fit
from ceeh.config.component import Component
from ceeh.config.metrics import METRICS, SECTIONS
from ceeh.config.reference import PAGES, entries
from ceeh.config.settings import Config
from ceeh.config.sft import SFTConfig
from ceeh.data.benchmarks import Benchmark
from ceeh.evaluation.config import EvaluationConfig
from ceeh.types import GradingOutcome
from tests.commands import said

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("schema", [Config, SFTConfig, EvaluationConfig, Benchmark])
def test_every_setting_is_described_in_a_sentence(schema: type) -> None:
    bad = [e.path for e in entries(schema) if not e.description or e.description[-1] not in ".)"]
    assert bad == []


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_not_stale(name: str) -> None:
    assert (DOCS / f"{name}.md").read_text() == PAGES[name](), (
        f"run python -m ceeh.config.reference {name} > docs/{name}.md"
    )


def test_every_metric_is_described_once_in_a_section_of_the_page() -> None:
    assert [each.name for each in METRICS if each.description[-1:] != "."] == []
    assert len({each.name for each in METRICS}) == len(METRICS)
    assert {each.prefix for each in METRICS} == set(SECTIONS)
    assert all(f"| `{each.name}` | " in PAGES["metrics"]() for each in METRICS)


def test_the_settings_and_classes_that_metrics_name_exist() -> None:
    words = [text for each in METRICS for text in (each.description, each.when)]
    named = {
        name.partition("=")[0]
        for text in (*words, *SECTIONS.values())
        for name in re.findall(r"`([\w.=]+)`", text)
    }
    classes = {name for name in named if name.startswith("ceeh.")}
    known = {entry.path for schema in (Config, SFTConfig) for entry in entries(schema)}
    assert named - classes - known == {"summary.json", "rollout_step"}
    assert len(classes) > 5
    for name in classes:
        assert isinstance(Component(name).imported("a metric"), type), name


def test_every_outcome_of_grading_is_named() -> None:
    (counted,) = (each for each in METRICS if each.name == "reward/outcome_NAME")
    assert {each.value for each in GradingOutcome} <= set(re.findall(r"\w+", counted.description))


def test_help_config_prints_a_setting_with_type_rule_default_and_description() -> None:
    answer = said(fit.main, ["--help-config", "optimizer.lr"])
    assert (answer.code, answer.out) == (
        0,
        "optimizer.lr  (number, greater than 0 and at most 1; default 3e-05)\n"
        "    Learning rate of AdamW. Paper: 3e-5 with LoRA.\n",
    )
    everything = said(fit.main, ["--help-config"]).out
    assert all(f"{entry.path}  (" in everything for entry in entries(Config) if entry.value)
    assert "one of request, step; default request" in everything
    assert "whole number or null, at least 1; default null" in everything
    assert 'OptimalLengthPenalty {"beta": 0.1, "gate": true, "floor": 0.9}' in everything
    # The required arguments of a command are not needed for its help.
    assert "gsm8k" not in said(evaluate.main, ["--help-config", "top_p"]).out
    assert "in (0, 1]; default 0.95" in said(evaluate.main, ["--help-config", "top_p"]).out


def test_an_unknown_prefix_is_refused_with_the_known_ones() -> None:
    answer = said(fit.main, ["--help-config", "optimiser"])
    assert answer.code == 2
    assert "no setting 'optimiser'; give one of name, seed, output" in answer.err
