"""The report of a run: a table, a self-contained page, and figures that are the numbers of the run."""

import base64
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure

from ceeh.evaluation.responses import HELD_OUT
from ceeh.evaluation.samples import SampleTable
from ceeh.evaluation.summary import summarize
from ceeh.reporting.run_page import summary_grid, write_report
from ceeh.reporting.run_panels import BINS, CURVES, series, training_panels
from tests.evaluation.tables import sample_table

LEVELS = [1 + i % 8 for i in range(64)]
HARD = torch.arange(64) >= 32


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
    assert re.split(" {2,}", lines[1])[-2:] == ["pass@8 %", "entropy, nats"]
    assert re.split(" {2,}", lines[3]) == [
        *("base", "81.2 [80.0, 82.5]", "61.2 [60.0, 62.5]", "90.0 [87.5, 92.5]"),
        "0.250 [0.125, 0.500]",
    ]
    assert "+81.2 [+80.0, +82.5]  -35.0 % [-37.5, -32.5]" in lines[5]
    assert [line.split()[1] for line in (lines[2], lines[6], lines[10])] == list(subsets)


def test_table_of_an_empty_subset_shows_dashes(tables):
    easy = torch.zeros(64, dtype=torch.bool)
    summary = summarize(tables["base"], tables["tuned"], easy, k=4, draws=100, seed=0)
    lines = summary_grid(summary).text().splitlines()
    hard = next(number for number, line in enumerate(lines) if line.startswith("-- hard "))
    assert lines[hard + 1].split() == ["base", "-", "-", "-", "-"]


@pytest.fixture(scope="module")
def report(tmp_path_factory, summary, tables) -> str:
    """The page of a run whose texts are as hostile as a model or a user can make them."""
    folder = tmp_path_factory.mktemp("run")
    names = [name for *_, lines in CURVES for name, *_ in lines]
    names += [f"signal/accuracy_history_{part}" for part in BINS]
    rows = [{"rollout_step": step} | dict.fromkeys(names, 0.2) for step in range(1, 21)]
    (folder / "config.yaml").write_text("note: <b>\n")
    for policy in ("base", "tuned"):
        rows_of = [held_out_row(index, sample, policy) for index in range(8) for sample in range(4)]
        (folder / "held_out").mkdir(exist_ok=True)
        pq.write_table(
            pa.Table.from_pylist(rows_of, HELD_OUT), folder / "held_out" / f"{policy}.parquet"
        )
    path = write_report(
        folder,
        summary,
        "a < b",
        rows=rows,
        tables=tables,
        levels=LEVELS,
        uids=[f"q{index}" for index in range(64)],
        hard=HARD,
    )
    assert path == folder / "report.html"
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    return path.read_text()


def held_out_row(index: int, sample: int, policy: str) -> dict:
    text = f"</p><script>alert({index})</script> \u202e {policy} {sample}"
    return {
        "index": index,
        "uid": f"q{index}",
        "level": f'"{index % 2}"><img src=http://evil>',
        "question": f"<b>{index}</b>?",
        "reference": "<i>",
        "sample": sample,
        "response": text,
        "tokens": 2 + sample,
        "finish": "stop",
        "correct": (index + sample) % 2 == 0,
        "entropy": 0.5,
        "pieces": [text[:3], text[3:]],
        "piece_entropy": [0.01, 0.7],
    }


def test_report_is_one_self_contained_page(report):
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', report)
    assert len(images) == 3 + len(CURVES) + 1
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    assert re.findall(r'(?:src|href)="(?!data:)([^"]+)"', report) == [
        "https://arxiv.org/abs/2607.09786"
    ]
    for loads in ("@import", "url(", "<link", "<iframe", "fetch(", "import("):
        assert loads not in report, loads
    assert "<h1>a &lt; b</h1>" in report
    assert "32 easy, 32 hard" in report
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []  # no global figure


def test_no_text_of_a_model_or_a_user_is_markup(report):
    parser = Tags()
    parser.feed(report)
    assert parser.counts["script"] == 1  # the page's own
    assert parser.counts["i"] == 0
    assert parser.counts["img"] == 3 + len(CURVES) + 1
    assert "\u202e" not in report
    assert "\\u202e" in report


class Tags(HTMLParser):
    """Counts the tags, and collects the filter's words: those of the examples, and the choices."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.kinds: list[list[str]] = []
        self.choices: list[str] = []
        self.tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag = tag
        self.counts[tag] += 1
        if kinds := dict(attrs).get("data-kinds"):
            self.kinds.append(json.loads(kinds))

    def handle_data(self, data: str) -> None:
        if self.tag == "option" and data.strip():
            self.choices.append(data)
        self.tag = ""


def test_every_choice_of_the_filter_finds_an_example_and_every_example_can_be_found(report):
    parser = Tags()
    parser.feed(report)
    words = {word for kinds in parser.kinds for word in kinds}
    assert len(parser.kinds) == 8 + 8 + 8  # same question; shortest and longest; right and wrong
    assert {choice for choice in parser.choices if choice != "all"} == words - {"easy"}
    # All eight are easy, so there is no choice between easy and hard.
    assert all("easy" in kinds for kinds in parser.kinds)


def test_numbers_never_wrap_and_an_interval_is_a_line_of_its_own(report):
    assert "td { white-space: nowrap }" in report
    assert "td small { display: block" in report
    body = report[report.index("<tbody>") : report.index("</tbody>")]
    cells = re.findall(r"<td>(.*?)</td>", body)
    assert len(cells) == 9 * 4
    for cell in cells:
        assert re.fullmatch(r"[+-]?[\d.]+( %)?(<small>\[[^\[\]<]+, [^\[\]<]+\]</small>)?", cell), (
            cell
        )
    assert sum("<small>" in cell for cell in cells) == 28  # of the others all samples agree
    assert body.count('<tr class="group">') == 3  # all, easy, hard, each named once
    assert re.findall(r'<td class="label">(all|easy|hard)</td>', body) == ["all", "easy", "hard"]


def test_curves_are_the_numbers_of_metrics_jsonl():
    rows = [{"rollout_step": step, "loss/entropy_easy": 0.1 * step} for step in (1, 2, 4)]
    rows[1]["rollout/accuracy_hard"] = 0.25
    panels = {panel.title: panel for panel in training_panels(rows)}
    drawn = {}
    for title in ("Policy entropy", "Accuracy of rollouts"):
        axes = Figure().subplots()
        panels[title].onto(axes)
        drawn[title] = [line.get_xydata().tolist() for line in axes.lines]
    assert drawn["Policy entropy"][0] == [[1, 0.1], [2, 0.2], [4, 0.4]]  # pale, as logged
    assert drawn["Accuracy of rollouts"][0] == [[2, 25.0]]


def test_the_histogram_stacks_to_all_questions_hardest_at_the_bottom():
    shares = (0.1, 0.2, 0.3, 0.15, 0.25)
    names = [f"signal/accuracy_history_{part}" for part in BINS]
    rows = [{"rollout_step": step, **dict(zip(names, shares, strict=True))} for step in (1, 2)]
    axes = Figure().subplots()
    training_panels(rows)[-1].onto(axes)
    tops = [band.get_paths()[0].vertices[:, 1].max() for band in axes.collections]
    assert tops == pytest.approx([10, 30, 60, 75, 100])


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_panels_without_data_are_named_and_not_drawn(tmp_path, summary, tables, levels):
    (tmp_path / "config.yaml").touch()
    path = write_report(
        tmp_path,
        summary,
        "run",
        rows=[],
        tables=tables,
        levels=levels,
        uids=[f"q{index}" for index in range(64)],
        hard=HARD,
    )
    page = path.read_text()
    assert page.count("data:image/png") == 3
    assert "Length gate (reward/gate_open)" in page
    assert '<form class="filter"' not in page, "a run without responses"


def test_series_leaves_out_steps_where_the_metric_was_not_measured():
    rows = [{"rollout_step": 0}, {"rollout_step": 1, "a": 0.5}, {"rollout_step": 2, "a": None}]
    steps, values = series(rows, "a")
    assert steps.tolist() == [1.0]
    assert values.tolist() == [0.5]
    assert series(rows, "b")[0].tolist() == []
