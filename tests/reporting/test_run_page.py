"""The report of a run: a table that fits, a self-contained page, panels that say what is missing."""

import base64
import re

import pytest
import torch
from matplotlib import _pylab_helpers

from ceeh.evaluation.samples import SampleTable
from ceeh.evaluation.summary import summarize
from ceeh.reporting.run_page import (
    ACCURACY,
    ENTROPY,
    SIGNALS,
    TOKENS,
    series,
    summary_grid,
    write_report,
)
from tests.evaluation.tables import sample_table

LEVELS = [1 + i % 8 for i in range(64)]


def held_out(scale: float, seed: int) -> SampleTable:
    generator = torch.Generator().manual_seed(seed)
    level = torch.tensor(LEVELS, dtype=torch.float64)[:, None].expand(-1, 4)
    return sample_table(
        correct=torch.rand((64, 4), generator=generator) < 1.02 - 0.08 * level,
        lengths=(torch.poisson(scale * (10 + 12 * level), generator) + 1).long(),
        entropy=0.1 + 0.02 * level[:, 0].float(),
    )


@pytest.fixture(scope="module")
def tables() -> dict[str, SampleTable]:
    return {"base": held_out(1.0, 0), "tuned": held_out(0.6, 1)}


@pytest.fixture(scope="module")
def summary(tables) -> dict:
    hard = torch.tensor(LEVELS) > 4
    return summarize(tables["base"], tables["tuned"], hard, k=4, draws=100, seed=0)


def test_table_shows_values_intervals_and_the_relative_tokens():
    metrics = {
        "accuracy": {"value": 0.8125, "low": 0.8, "high": 0.825},
        "tokens": {"value": 61.25, "low": 60.0, "high": 62.5},
        "pass_at_8": {"value": 0.9, "low": 0.875, "high": 0.925},
        "entropy": {"value": 0.25, "low": 0.125, "high": 0.5},
    }
    change = metrics | {"tokens_relative": {"value": -0.35, "low": -0.375, "high": -0.325}}
    subsets = "all", "easy", "hard"
    summary = {policy: dict.fromkeys(subsets, metrics) for policy in ("base", "tuned")}
    counts = {"questions": {"all": 1000, "easy": 600, "hard": 400}, "samples": 8}
    summary |= counts | {"difference": dict.fromkeys(subsets, change), "train_seconds": 90.0}
    lines = summary_grid(summary).text().splitlines()
    assert lines[0].startswith("1000 held-out questions (600 easy, 400 hard), 8 samples each")
    assert lines[0].endswith("trained for 1.5 min")
    assert re.split(" {2,}", lines[1])[-2:] == ["pass@8 %", "nats per token"]
    assert re.split(" {2,}", lines[3]) == [
        *("all", "base", "81.2 [80.0, 82.5]", "61.2 [60.0, 62.5]", "90.0 [87.5, 92.5]"),
        "0.250 [0.125, 0.500]",
    ]
    assert "+81.2 [+80.0, +82.5]  -35.0 % [-37.5, -32.5]" in lines[5]
    assert [line.split()[0] for line in (lines[3], lines[7], lines[11])] == list(subsets)


def test_table_is_aligned_and_fits_110_columns_with_long_responses(summary):
    long = {"value": 10382.4, "low": 10102.4, "high": 10662.9}
    wide = summary | {
        "base": {subset: f | {"tokens": long} for subset, f in summary["base"].items()}
    }
    lines = summary_grid(wide).text().splitlines()
    assert max(map(len, lines)) <= 110
    columns = {line.index("[") for line in lines if line.startswith(("all", "easy", "hard"))}
    starts = [re.search(r"(base|tuned|change) +", line) for line in lines]
    assert len({found.end() for found in starts if found}) == 1
    assert len(columns) == 1


def test_table_of_an_empty_subset_shows_dashes(tables):
    easy = torch.zeros(64, dtype=torch.bool)
    summary = summarize(tables["base"], tables["tuned"], easy, k=4, draws=100, seed=0)
    row = next(
        line for line in summary_grid(summary).text().splitlines() if line.startswith("hard")
    )
    assert row.split() == ["hard", "base", "-", "-", "-", "-"]


def test_report_is_one_self_contained_page(tmp_path, summary, tables):
    names = [name for name, *_ in (*ACCURACY, *TOKENS, *ENTROPY, *SIGNALS)]
    rows = [{"rollout_step": step} | dict.fromkeys(names, step / 20) for step in range(20)]
    (tmp_path / "config.yaml").write_text("note: <b>\n")
    report = write_report(tmp_path, summary, "a < b", rows=rows, tables=tables, levels=LEVELS)
    page = report.read_text()
    assert report == tmp_path / "report.html"
    image = base64.b64decode(re.findall(r'src="data:image/png;base64,([^"]+)"', page)[0])
    assert image == (tmp_path / "report.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page) == [
        "https://arxiv.org/abs/2607.09786"
    ]
    assert "<h1>a &lt; b</h1>" in page
    assert "&lt;b&gt;" in page
    assert page.count("<tr") == 1 + 9
    assert "32 easy, 32 hard" in page
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []  # no global figure


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_panels_name_the_metrics_that_were_never_logged(
    tmp_path, summary, tables, levels, monkeypatch
):
    said = []
    monkeypatch.setattr("ceeh.reporting.style.missing", lambda axes, names: said.extend(names))
    (tmp_path / "config.yaml").touch()
    write_report(tmp_path, summary, "run", rows=[], tables=tables, levels=levels)
    assert {"rollout/accuracy", "loss/entropy_hard", "signal/hard_fraction"} <= set(said)


def test_series_leaves_out_steps_where_the_metric_was_not_measured():
    rows = [{"rollout_step": 0}, {"rollout_step": 1, "a": 0.5}, {"rollout_step": 2, "a": None}]
    steps, values = series(rows, "a")
    assert steps.tolist() == [1.0]
    assert values.tolist() == [0.5]
    assert series(rows, "b")[0].tolist() == []
