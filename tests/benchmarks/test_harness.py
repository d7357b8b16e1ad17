"""The benchmarks' own arithmetic: bounds, turns, the table, what check calls worse, peak memory."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import harness
from benchmarks.check import worse
from benchmarks.harness import Measurement, by_turns, median_ratio, report, table
from benchmarks.memory import MIB, peak_memory
from benchmarks.workload import SIZES, log_normal_lengths, ragged_batch


@pytest.mark.parametrize(
    ("bound", "value", "reached"),
    [
        ({"at_least": 2.0}, 2.0, True),
        ({"at_least": 2.0}, 1.9, False),
        ({"at_most": 0.5}, 0.5, True),
        ({"at_most": 0.5}, 0.6, False),
        ({}, 1.0, None),
    ],
)
def test_a_figure_knows_whether_its_bound_holds(
    bound: dict[str, float], value: float, reached: bool | None
) -> None:
    assert Measurement(name="x", value=value, **bound).reached is reached


def test_the_table_shows_bound_verdict_and_both_sides() -> None:
    lines = table(
        "update",
        [
            Measurement(
                name="tokens/s", value=1.5, at_least=2, ours=3000, reference=2000, unit="t/s"
            ),
            Measurement(name="padding", value=0.04, at_most=0.08, unit="of tokens"),
        ],
    ).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["tokens/s", "1.5", ">=", "2", "MISSED", "3,000", "t/s", "2,000", "t/s"],
        ["padding", "0.04", "of", "tokens", "<=", "0.08", "reached"],
    ]


def test_turns_alternate_their_order_and_leave_the_warm_up_out() -> None:
    calls: list[str] = []
    seconds = by_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmups=1
    )
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_the_ratio_is_the_median_of_neighbors_ratios() -> None:
    # 4/2, 9/3, 100/1: the one disturbed pair does not count.
    assert median_ratio([4, 9, 100], [2, 3, 1]) == 3


def test_check_names_what_is_worse_missing_or_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    measurements = [Measurement(name="speed", value=2.5), Measurement(name="memory", value=0.6)]
    report("update", measurements, settings={})
    assert json.loads((tmp_path / "update.json").read_text())["measurements"][0]["value"] == 2.5
    kept = {
        "update": {"speed": {"at_least": 2}, "memory": {"at_most": 0.5}, "padding": {"at_most": 1}},
        "step": {"speed": {"at_least": 4}},
    }
    assert worse(kept, tmp_path) == [
        "update: memory is 0.6, to keep is at most 0.5",
        "update: 'padding' was not measured; run make bench",
        "step: not measured; run make bench",
    ]


def test_lengths_are_log_normal_clipped_and_the_seeds_own() -> None:
    given = {"median": 150, "sigma": 0.9, "shortest": 16, "longest": 1024}
    lengths = log_normal_lengths(4001, seed=0, **given)
    assert min(lengths) == 16
    assert max(lengths) == 1024
    assert sorted(lengths)[2000] == pytest.approx(150, rel=0.1)
    # The median times exp(0.9): one standard deviation of the logarithm, 84.1 % lie below.
    assert sum(length < 369 for length in lengths) / 4001 == pytest.approx(0.841, abs=0.03)
    assert log_normal_lengths(4001, seed=0, **given) == lengths
    assert log_normal_lengths(4001, seed=1, **given) != lengths


def test_a_ragged_batch_has_the_lengths_and_a_contrast_in_every_group() -> None:
    lengths = [3, 9, 5, 1, 7, 2]
    batch = ragged_batch(
        lengths, group_size=3, prompt_tokens=4, vocabulary=SIZES["tiny"][-1], seed=0
    )
    assert batch.lengths.tolist() == lengths
    assert batch.totals.tolist() == [length + 4 for length in lengths]
    assert all(0 < outcome.accuracy < 1 for outcome in batch.outcomes)


def test_peak_memory_sees_what_was_allocated_in_the_block_and_given_back() -> None:
    kept = torch.ones(64 * MIB // 4)
    for _ in range(2):  # the second block must not be blind to what the first one left free
        with peak_memory() as peak:
            torch.ones(96 * MIB // 4)
        assert peak[0] / MIB == pytest.approx(96, abs=8)
    with peak_memory() as peak:
        torch.ones(MIB // 4)
    assert peak[0] / MIB < 16, "what was in use before does not count"
    assert kept.sum() == 64 * MIB // 4
