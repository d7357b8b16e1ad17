"""The benchmarks' own arithmetic: turns, ratios, the table, what check calls worse, peak memory."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import harness
from benchmarks.check import worse
from benchmarks.harness import Measurement, in_turn, median_ratio, report, share, speedup, table
from benchmarks.memory import MIB, peak_memory
from benchmarks.workload import log_normal_lengths, scored_groups


@pytest.fixture
def baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = {
        "update": {"speed": {"at_least": 2}, "memory": {"at_most": 0.5}, "padding": {"at_most": 1}},
        "step": {"speed": {"at_least": 4}},
    }
    monkeypatch.setattr(harness, "BASELINE", bounds)


def test_the_table_shows_the_baseline_and_both_sides(baseline: None) -> None:
    measurements = [
        Measurement(name="speed", value=1.5, ours=3000, reference=2000, unit="t/s"),
        Measurement(name="padding", value=1, unit="of tokens"),
        Measurement(name="other", value=0.25),
    ]
    lines = table("update", measurements).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["speed", "1.5", "at", "least", "2", "WORSE", "3,000", "t/s", "2,000", "t/s"],
        ["padding", "1", "of", "tokens", "at", "most", "1", "kept"],
        ["other", "0.25"],
    ]


def test_check_names_what_is_worse_or_not_measured(
    baseline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    measurements = [Measurement(name="speed", value=2.5), Measurement(name="memory", value=0.6)]
    report("update", measurements, settings={})
    assert json.loads((tmp_path / "update.json").read_text())["measurements"][0]["value"] == 2.5
    assert worse() == [
        "update: memory is 0.6, the baseline at most 0.5",
        "update: 'padding' was not measured; run make bench",
        "step: 'speed' was not measured; run make bench",
    ]


def test_turns_alternate_their_order_and_leave_the_warm_up_out() -> None:
    calls: list[str] = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_the_ratio_is_the_median_of_neighbors_ratios() -> None:
    # 4/2, 9/3, 100/1: the one disturbed pair does not count.
    assert median_ratio([4, 9, 100], [2, 3, 1]) == 3
    assert speedup("x", [2, 3, 1], [4, 9, 100]).value == 3
    assert share("x", [1, 1], [4, 4]).value == 0.25


def test_lengths_are_log_normal_clipped_and_set_by_the_seed() -> None:
    given = {"median": 150, "sigma": 0.9, "shortest": 16, "longest": 1024}
    lengths = log_normal_lengths(4001, **given)
    assert min(lengths) == 16
    assert max(lengths) == 1024
    assert sorted(lengths)[2000] == pytest.approx(150, rel=0.1)
    # The median times exp(0.9): one standard deviation of the logarithm, 84.1 % lie below.
    assert sum(length < 369 for length in lengths) / 4001 == pytest.approx(0.841, abs=0.03)
    assert log_normal_lengths(4001, **given) == lengths
    assert log_normal_lengths(4001, seed=1, **given) != lengths


def test_groups_have_the_lengths_and_a_contrast_and_are_the_same_on_each_call() -> None:
    lengths = [3, 9, 5, 1, 7, 2]
    groups, again = (
        scored_groups(lengths, group_size=3, prompt_tokens=4, vocabulary=4096) for _ in range(2)
    )
    sampled = [completion for each in groups for completion in each.group.completions]
    assert [len(completion.token_ids) for completion in sampled] == lengths
    assert all(0 < each.outcome.accuracy < 1 for each in groups)
    assert again == groups


def test_peak_memory_sees_what_was_allocated_in_the_block_and_returned() -> None:
    kept = torch.ones(64 * MIB // 4)
    for _ in range(2):  # the second block must not reuse unseen what the first one left free
        with peak_memory() as peak:
            torch.ones(96 * MIB // 4)
        assert peak[0] / MIB == pytest.approx(96, abs=8)
    with peak_memory() as peak:
        torch.ones(MIB // 4)
    assert peak[0] / MIB < 16, "what was in use before does not count"
    assert kept.sum() == 64 * MIB // 4
