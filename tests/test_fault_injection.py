"""The fault injection experiments themselves, in short forms with the real engine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.engine, pytest.mark.slow]


def results(experiment: str, folder: Path, *arguments: str) -> dict[str, Any]:
    paths = ["--work", str(folder / "work"), "--output", str(folder / "results.json")]
    done = subprocess.run(
        [sys.executable, "-m", f"fault_injection.{experiment}", *arguments, *paths],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "results.json").read_text())


def test_a_run_survives_five_kills_in_five_phases(tmp_path: Path) -> None:
    found = results("kills", tmp_path, "--kills", "5", "--per-run", "5", "--seed", "3")
    assert (found["kills"], found["survived"], len(found["phases"])) == (5, 5, 5)
