"""python -m ceeh.compare on runs that were not evaluated: their held-out samples, paired by question."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ceeh.compare import main
from ceeh.evaluation.held_out import easy_and_hard
from tests.conftest import FinishedRun
from tests.test_compare import write


def compared(out: Path, *places: str) -> dict:
    assert main([*places, "--output", str(out), "--draws", "100"]) == 0
    return json.loads((out / "comparison.json").read_text())


def test_two_runs_are_compared_by_what_they_measured_themselves(
    full_run: FinishedRun, lora_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = full_run.path / "held_out" / "base.npz"
    runs = {"full": full_run.path, "lora": lora_run.path}
    places = [f"base={base}", *(f"{name}={path}" for name, path in runs.items())]
    found = compared(tmp_path / "out", *places)
    models = found["benchmarks"]["held_out"]["models"]
    assert found["benchmarks"]["held_out"]["questions"] == 5
    for name, path in runs.items():
        summary = json.loads((path / "summary.json").read_text())["tuned"]["all"]
        for metric in ("accuracy", "tokens", "pass_at_2", "entropy"):
            assert models[name][metric]["value"] == pytest.approx(summary[metric]["value"])
    # Of the base the measured samples, not those that say which questions are hard.
    summary = json.loads((full_run.path / "summary.json").read_text())["base"]["all"]
    assert models["base"]["tokens"]["value"] == pytest.approx(summary["tokens"]["value"])
    levels = easy_and_hard(str(base))
    assert len(levels) == 5
    page = (tmp_path / "out" / "report.html").read_text()
    for level in set(levels.values()):
        assert f'<td class="label">{level}</td>' in page
    assert "NAG is the accuracy lost" in capsys.readouterr().out


def test_an_evaluated_run_and_one_that_is_not_share_their_held_out_questions(
    full_run: FinishedRun, lora_run: FinishedRun, tmp_path: Path
) -> None:
    evaluated = full_run.copy(tmp_path)
    write(evaluated / "evaluation", 0.5, 10)
    found = compared(tmp_path / "out", f"a={evaluated}", f"b={lora_run.path}")
    assert list(found["benchmarks"]) == ["held_out"]
    other = tmp_path / "other"
    other.mkdir()
    write(lora_run.copy(other) / "evaluation", 0.5, 10)
    found = compared(tmp_path / "out", f"a={evaluated}", f"b={other / lora_run.path.name}")
    assert set(found["benchmarks"]) == {"sums", "proofs"}


def test_settings_that_differ_are_noted(
    full_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = full_run.copy(tmp_path)
    file = other / "config.yaml"
    file.write_text(file.read_text().replace("temperature: 0.7", "temperature: 0.9"))
    compared(tmp_path / "out", f"a={full_run.path}", f"b={other}")
    printed = capsys.readouterr().out
    assert "note: held_out: temperature is 0.7 for a and 0.9 for b" in printed


def test_what_is_missing_or_foreign_is_named(
    full_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, alone = full_run.copy(tmp_path), tmp_path / "alone.npz"
    shutil.copy(run / "held_out" / "base.npz", alone)
    write(tmp_path / "evaluated", 0.5, 10)
    (tmp_path / "stopped").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "stopped")
    broken = tmp_path / "broken" / "held_out"
    broken.mkdir(parents=True)
    shutil.copy(run / "config.yaml", broken.parent)
    np.savez(broken / "tuned.npz", uid=np.array([object()]))
    for place, message in (
        (tmp_path / "evaluated", "is not a run, and the others have held-out samples alone"),
        (tmp_path / "stopped", "has no tuned.npz: the run did not get that far; resume it"),
        (alone, "which says how it was sampled"),
        (broken.parent, "cannot be read as samples of a run"),
        (tmp_path / "nothing", "does not exist; give the output folder"),
    ):
        given = [f"a={run}", f"b={place}", "--output", str(tmp_path / "out")]
        assert main(given) == 2, place
        assert message in capsys.readouterr().err
