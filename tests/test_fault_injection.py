"""The drills themselves, in a short form: five kills of a run with the real engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.engine
def test_a_run_survives_five_kills_in_five_phases(tmp_path: Path) -> None:
    given = ["--kills", "5", "--per-run", "5", "--seed", "3"]
    paths = ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "kills.json")]
    done = subprocess.run(
        [sys.executable, "-m", "fault_injection.kills", *given, *paths],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "kills.json").read_text())
    assert (figures["kills"], figures["survived"], len(figures["phases"])) == (5, 5, 5)
