"""python -m ceeh.evaluate and ceeh.compare with the real engine, as in the README."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ceeh.compare import main as compare
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.evaluate import main as evaluate
from tests.test_evaluate import interrupted_at_second_batch

pytestmark = pytest.mark.engine

SMALL = ["limit=24", "samples=4", "questions_per_batch=8", "bootstrap_draws=200"]


def test_an_interrupted_evaluation_resumes_to_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["starter", "--benchmarks", "starter", *SMALL, "tracking.mlflow=false"]
    assert evaluate([*given, "--output", str(tmp_path / "whole")]) == 0

    with monkeypatch.context() as patch:
        interrupted_at_second_batch(patch, VLLMEngine)
        assert evaluate([*given, "--output", str(tmp_path / "stopped")]) == 130
    assert "run the same command to resume" in capsys.readouterr().err
    assert evaluate([*given, "--output", str(tmp_path / "stopped")]) == 0
    one, other = ((tmp_path / name / "results.json").read_bytes() for name in ("whole", "stopped"))
    assert one == other
    tables = [pq.read_table(tmp_path / name / "samples.parquet") for name in ("whole", "stopped")]
    assert tables[0].equals(tables[1])
    found = json.loads(one)["benchmarks"]["starter"]["metrics"]
    assert found["accuracy"]["value"] > 0.5, "the shipped model solves most of its task"
    assert found["maj_at_4"]["value"] >= found["maj_at_1"]["value"] - 0.1

    places = [f"{name}={tmp_path / name}" for name in ("whole", "stopped")]
    assert compare([*places, "--output", str(tmp_path / "comparison")]) == 0
    assert "stopped is within 1 point of whole or above: +0.0 [+0.0, +0.0] points" in (
        capsys.readouterr().out
    )
