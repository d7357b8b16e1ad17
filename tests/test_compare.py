"""python -m ceeh.compare on handmade results: pairing, the margin, notes, pages."""

import itertools
import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from ceeh.compare import main
from ceeh.evaluation.comparison import aligned, within
from ceeh.evaluation.results import Results, read_results, write_results
from ceeh.evaluation.store import BenchmarkSamples, SampleStore
from tests.commands import assert_refused, said
from tests.evaluation.tables import sample_table
from tests.limits import largest_file

TITLES = {"sums": "Sums", "proofs": "Proofs"}


def write(
    folder: Path,
    chance: float,
    length: float,
    *,
    benchmarks: tuple[str, ...] = ("sums", "proofs"),
    questions: int = 60,
    seed: int = 0,
    samples: int = 4,
    silent: bool = False,
    text: str = "?",
    reference: str = "1",
    level: str | None = None,
    name: str | None = None,
    **settings: object,
) -> Results:
    """An evaluation in `folder`: each question correct with about `chance`, about `length` tokens.

    `silent`: no response has an answer; `level`: of every question.
    """
    store = SampleStore(folder)
    common = {"temperature": 1.0, "seed": seed} | settings
    records = {
        key: {"settings": {"title": TITLES[key]} | common, "skipped": {}, "model": {}}
        for key in benchmarks
    }
    with ExitStack() as held:
        store.open(records, held)
    generator = torch.Generator().manual_seed(seed)
    for key in benchmarks:
        ease = torch.rand(questions, generator=torch.Generator().manual_seed(99)) * 0.4 - 0.2
        shared = {"benchmark": key, "question": text, "finish": "stop"}
        shared |= {"reference": reference, "outcome": "ok", "entropy": 0.1}
        rows = []
        for question, sample in itertools.product(range(questions), range(samples)):
            correct = bool(torch.rand((), generator=generator) < chance + ease[question])
            tokens = int(length * (0.5 + torch.rand((), generator=generator)))
            response = "1" if correct else "2"
            row = {"index": question, "uid": f"{key}-{question}", "sample": sample}
            row["level"] = level or (str(1 + question % 3) if key == "sums" else None)
            row |= {"response": response, "answer": None if silent else response, "tokens": tokens}
            rows.append(shared | row | {"score": float(correct), "correct": correct})
        store.write(key, 0, rows)
    store.finish(benchmarks)
    protocol = {"bootstrap_draws": 200, "seed": 0}
    return write_results(store, name=name or folder.name, model={}, protocol=protocol)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write(tmp_path / "base", 0.6, 100)
    return tmp_path / "base"


def compared(tmp_path: Path, *arguments: str) -> dict:
    assert main([*arguments, "--output", str(tmp_path / "out"), "--draws", "400"]) == 0
    return json.loads((tmp_path / "out" / "comparison.json").read_text())


def test_changes_are_those_of_the_two_results(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "short", 0.8, 50, seed=1)
    found = compared(tmp_path, str(base), str(tmp_path / "short"))
    one, other = (read_results(str(tmp_path / name)) for name in ("base", "short"))
    for name in ("sums", "proofs"):
        a, b = one.benchmarks[name].table, other.benchmarks[name].table
        accuracy = b.correct.double().mean() - a.correct.double().mean()
        tokens = b.lengths.double().mean() / a.lengths.double().mean() - 1
        changes = found["benchmarks"][name]["changes"]["short"]
        assert changes["accuracy"]["value"] == pytest.approx(float(accuracy))
        assert changes["tokens_relative"]["value"] == pytest.approx(float(tokens))
    parts = [found["benchmarks"][name]["changes"]["short"] for name in ("sums", "proofs")]
    mean = sum(part["accuracy"]["value"] for part in parts) / 2
    assert found["average"]["changes"]["short"]["accuracy"]["value"] == pytest.approx(mean)
    assert found["average"]["changes"]["short"]["within_margin"] == "yes"
    (base_accuracy, base_tokens), (accuracy, tokens) = (
        [metrics[name]["value"] for name in ("accuracy", "tokens")]
        for metrics in found["average"]["models"].values()
    )
    nag = (1 - accuracy / base_accuracy) * 100 * (1 - tokens / base_tokens) ** 0.5
    assert found["average"]["changes"]["short"]["nag_product"] == pytest.approx(nag)


def test_the_same_results_twice_differ_by_exactly_zero(tmp_path: Path, base: Path) -> None:
    found = compared(tmp_path, f"a={base}", f"b={base}")
    for part in (*found["benchmarks"].values(), found["average"]):
        accuracy = part["changes"]["b"]["accuracy"]
        assert accuracy == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert part["changes"]["b"]["nag_product"] is None


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (-0.009, 0.02, 1.0, "yes"),
        (-0.010, 0.02, 1.0, "yes"),
        (-0.011, 0.02, 1.0, "undecided"),
        (-0.05, -0.011, 1.0, "no"),
        (-0.05, -0.010, 1.0, "undecided"),
        (0.01, 0.02, 0.0, "yes"),
        (-0.011, 0.02, 2.0, "yes"),
    ],
)
def test_the_interval_decides_whether_accuracy_stays_within_the_margin(
    low: float, high: float, margin: float, expected: str
) -> None:
    assert within({"value": (low + high) / 2, "low": low, "high": high}, margin) == expected


def test_questions_in_another_order_are_put_in_the_order_of_the_base() -> None:
    correct = torch.tensor([[True], [False], [False]])
    lengths = torch.tensor([[3], [4], [5]])
    samples = BenchmarkSamples(
        table=sample_table(correct=correct, lengths=lengths),
        uids=("c", "a", "b"),
        levels=("3", "1", "2"),
        outcomes={},
        responses=Path("samples.parquet"),
        asked={},
    )
    found = aligned(samples, ("a", "b", "c"), "other", "base")
    assert found.table.lengths.flatten().tolist() == [4, 5, 3]
    assert found.table.correct.flatten().tolist() == [False, False, True]
    assert found.levels == ("1", "2", "3")


def test_the_tables_are_printed_in_the_papers_layout(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "short", 0.6, 50, seed=1)
    compared(tmp_path, str(base), str(tmp_path / "short"), "--margin", "30")
    printed = capsys.readouterr().out
    assert re.search(r"^policy +Sums +Proofs +average$", printed, re.MULTILINE)
    assert re.search(r"^base +\d\d\.\d/\d+ +\d\d\.\d/\d+ +\d\d\.\d/\d+$", printed, re.MULTILINE)
    assert "pass@4 %" in printed
    assert "short is within 30 points of base or above:" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<td class="label">Proofs</td>' in page
    assert "monitorable" in page
    assert page.count("data:image/png;base64,") == 6
    assert "base and short on the same questions" in page


def test_other_settings_and_benchmarks_left_out_are_noted(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "hot", 0.6, 50, benchmarks=("sums",), temperature=0.6)
    compared(tmp_path, str(base), str(tmp_path / "hot"))
    printed = capsys.readouterr().out
    assert "note: sums: temperature is 1.0 for base and 0.6 for hot" in printed
    assert "note: proofs of base left out: not in all results" in printed
    assert "average" not in printed, "one benchmark has no average"


def test_other_questions_under_the_same_uids_are_refused_and_other_references_noted(
    tmp_path: Path, base: Path
) -> None:
    write(tmp_path / "moved", 0.6, 50, text="? ", questions_digest="f", reference="1.0")
    found = compared(tmp_path, str(base), str(tmp_path / "moved"))
    words = "questions have another reference for moved than for base, the first is 'sums-0'"
    assert f"sums: 60 {words}" in found["notes"]
    write(tmp_path / "other", 0.6, 50, text="another?")
    answer = said(main, [str(base), str(tmp_path / "other"), "--output", str(tmp_path / "none")])
    words = "other, sums: 60 questions are not those of base although their uids are"
    assert_refused(answer, words, "the first is 'sums-0'; evaluate both on the same")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("given", "shown", "left_out"),
    [
        ({"samples": 2}, ["pass@2 %", "2 or 4 samples each"], "pass@4 %"),
        ({"silent": True}, ["maj@4 %"], "maj@2 %"),
        ({"level": "2"}, ['<td class="label">2</td>'], '<td class="label">3</td>'),
    ],
    ids=["samples", "silent", "levels"],
)
def test_the_page_shows_the_metrics_and_levels_that_all_policies_have(
    tmp_path: Path, base: Path, given: dict, shown: list[str], left_out: str
) -> None:
    write(tmp_path / "other", 0.6, 50, seed=1, **given)
    for order in ("base", "other"), ("other", "base"):
        compared(tmp_path, *(str(tmp_path / name) for name in order))
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(text in page for text in shown)
    assert left_out not in page


def test_benchmarks_with_the_same_title_are_shown_with_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TITLES, "proofs", "Sums")
    for name, chance in (("a", 0.6), ("b", 0.7)):
        write(tmp_path / name, chance, 50)
    compared(tmp_path, str(tmp_path / "a"), str(tmp_path / "b"))
    assert re.search(
        r"^policy +Sums \(sums\) +Sums \(proofs\) +average$", capsys.readouterr().out, re.MULTILINE
    )


def test_the_home_folder_is_found_behind_an_equals_sign(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["a=~/base", "b=~/base", "--output=~/found", "--draws=100"]) == 0
    assert (tmp_path / "found" / "comparison.json").is_file()


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "lr=0.1", 0.6, 50)
    found = compared(tmp_path, str(base), str(tmp_path / "lr=0.1"))
    assert list(found["average"]["models"]) == ["base", "lr=0.1"]


def test_a_full_disk_ends_in_one_sentence(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "short", 0.8, 50, seed=1)
    arguments = [str(base), str(tmp_path / "short"), "--output", str(tmp_path / "out")]
    with largest_file(10):
        answer = said(main, arguments)
    assert answer.code == 1
    assert answer.err.startswith("error: File too large")
    assert "make room" in answer.err
    assert not [*(tmp_path / "out").iterdir()]
    assert said(main, arguments).code == 0
