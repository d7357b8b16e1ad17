"""python -m ceeh.study: the command answers early; and a real study, interrupted and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fit.test_command import imported_by
from tests.test_fit import SMALL

ROOT = Path(__file__).parents[2]
STUDY = """
name: small
output: {output}
config: [ceeh.yaml]
overrides: {overrides}
baseline: ceeh
arms: {{ceeh: {{}}}}
seeds: [0]
evaluation:
  sampling: {{plain: {{samples: 2}}, nucleus: null}}
  overrides: {evaluation}
"""
EVALUATION = [
    "engine.class_path=tests.torch_engine.TorchEngine",
    "max_response_tokens=8",
    "limit=6",
    "bootstrap_draws=100",
    "hardware.accelerator=cpu",
    "tracking.mlflow=false",
]


def test_help_and_a_typo_import_no_torch(tmp_path: Path) -> None:
    assert imported_by("ceeh.study", "--help") == "[]"
    file = tmp_path / "study.yaml"
    file.write_text("name: a\nconfig: [ceeh.yaml]\narms: {a: {}}\nbaseline: b\n")
    assert imported_by("ceeh.study", str(file)) == "[]"


@pytest.mark.slow
def test_an_interrupted_study_saves_its_run_and_the_same_command_ends_it(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    file, folder = tmp_path / "study.yaml", tmp_path / "studies" / "small"
    overrides = [*SMALL, f"model.path={tiny_model_dir}", "rollouts.steps=12"]
    file.write_text(
        STUDY.format(
            output=tmp_path / "studies",
            overrides=json.dumps(overrides),
            evaluation=json.dumps(EVALUATION),
        )
    )
    command = [sys.executable, "-m", "ceeh.study", str(file)]
    options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True}
    metrics, log = (
        folder / name for name in ("runs/ceeh-seed0/metrics.jsonl", "logs/ceeh-seed0.log")
    )

    # --only: the untrained model is left out, which would take as long as the rest
    with subprocess.Popen(
        [*command, "--only", "ceeh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    ) as process:
        end = time.monotonic() + 120
        while not metrics.is_file() or metrics.read_text().count("loss/policy") < 3:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "waiting for ceeh-seed0 to save and end" in out
    assert "run the same command to resume" in out
    assert list((folder / "runs/ceeh-seed0/checkpoints").glob("step-*.ckpt"))
    assert not (folder / "report.html").exists()

    done = subprocess.run([*command, "--only", "ceeh"], capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
    assert log.read_text().count("step  1/12") == 1, "the run began again"
    steps = [row["rollout_step"] for row in map(json.loads, metrics.read_text().splitlines())]
    assert steps == list(range(13))
    record = json.loads((folder / "results.json").read_text())
    assert record["arms"] == {"ceeh": [0]}
    assert record["sampling"]["plain"]["subsets"]["all"]["questions"] == 6
    assert "untrained: to be evaluated" in record["missing"]
    assert (folder / "report.html").is_file()
