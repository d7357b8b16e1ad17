"""Dynamic sampling through a real Trainer: after a resume, and in two processes, to the same numbers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ceeh.config.settings import Config, load
from ceeh.fit import fit
from tests.runtime.test_distributed import LAUNCH, ROOT
from tests.test_fit import SHIPPED, SMALL, killed_at, rows, steps, weights
from tests.torch_engine import TorchEngine

pytestmark = pytest.mark.usefixtures("without_figures")

DYNAMIC = ("rollouts.dynamic_sampling.max_rounds=3", "checkpoints.keep=3")


def given(model: Path, output: Path) -> list[str]:
    return [*SMALL, *DYNAMIC, f"model.path={model}", f"output={output}"]


def small(model: Path, output: Path, *overrides: str) -> Config:
    return load([SHIPPED], [*given(model, output), *overrides])


def test_a_resumed_run_equals_the_uninterrupted_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    whole = fit(small(tiny_model_dir, tmp_path / "a"))
    with killed_at(TorchEngine, 6):
        fit(small(tiny_model_dir, tmp_path / "b"))
    again = fit(small(tiny_model_dir, tmp_path / "b", "ckpt_path=last"))
    assert rows(again) == rows(whole)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    logged = steps(whole)
    assert any(row["rollout/dropped_groups"] > 0 for row in logged)
    assert all(1 <= row["rollout/sampling_rounds"] <= 3 for row in logged)
    # Dropped groups count as seen, besides the 4 questions of a step.
    drawn = [4 + row["rollout/dropped_groups"] for row in logged]
    assert logged[0]["signal/questions_seen"] == drawn[0]


def test_two_processes_resume_to_their_own_numbers(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The checkpoint holds rank 0's loader alone, so both ranks must have equal streams."""

    def launch(output: Path, *overrides: str) -> Path:
        once = [*given(tiny_model_dir, output), "rollouts.steps=3"]
        program = ["-m", "ceeh.fit", "--config", str(SHIPPED), *once]
        done = subprocess.run(
            [*LAUNCH, *program, *overrides],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return output / "starter"

    whole = launch(tmp_path / "a")
    (tmp_path / "b").mkdir()
    shutil.copytree(whole, tmp_path / "b" / "starter")
    checkpoint = tmp_path / "b" / "starter" / "checkpoints" / "step-000002.ckpt"
    again = launch(tmp_path / "b", f"ckpt_path={checkpoint}")
    assert steps(again) == steps(whole)
    assert sum(row["rollout/dropped_groups"] for row in steps(whole)) > 0
