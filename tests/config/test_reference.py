"""Descriptions: every setting has one, and the page and --help-config show it with rule and default."""

from pathlib import Path

import pytest

from ceeh import evaluate, fit
from ceeh.config.reference import entries, markdown
from ceeh.config.settings import Config
from ceeh.config.sft import SFTConfig
from ceeh.data.benchmarks import Benchmark
from ceeh.evaluation.config import EvaluationConfig
from tests.commands import said

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.parametrize("schema", [Config, SFTConfig, EvaluationConfig, Benchmark])
def test_every_setting_is_described_in_a_sentence(schema: type) -> None:
    bad = [e.path for e in entries(schema) if not e.description or e.description[-1] not in ".)"]
    assert bad == []


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text() == markdown(), (
        "run python -m ceeh.config.reference > docs/configuration.md"
    )


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
