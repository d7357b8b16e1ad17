"""A sharded run with the real engine: one process is killed, then the same command, by two and by one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ceeh.evaluate import main as evaluate
from ceeh.export import main as export
from ceeh.run.checkpoint import checkpoint_files
from tests.runtime.test_distributed import LAUNCH, ROOT
from tests.test_fit import SHIPPED, rows

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ALL_END_SECONDS = 60
"""torchrun sends SIGTERM to the processes that are left, and SIGKILL 30 seconds later."""
GIVEN = (
    "ckpt_path=last",
    "hardware.strategy=fsdp",
    "hardware.accelerator=cpu",
    "rollouts.steps=4",
    "rollouts.prompts_per_step=4",
    "rollouts.completions_per_prompt=4",
    "rollouts.max_response_tokens=48",
    "optimizer.prompts_per_minibatch=2",
    "checkpoints.every_n_steps=1",
    "evaluation.questions=5",
    "evaluation.samples=2",
    "evaluation.split_samples=1",
    "evaluation.bootstrap_draws=100",
    "tracking.mlflow=false",
    "engine.init_args.kv_cache_gib=0.25",
)


def start(launch: list[str], output: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*launch, "-m", "ceeh.fit", "--config", str(SHIPPED), *GIVEN, f"output={output}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=output,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def ended_well(run: subprocess.Popen) -> str:
    said, _ = run.communicate(timeout=300)  # of a hang
    assert run.returncode == 0, said[-3000:]
    return said


def test_a_sharded_run_survives_the_kill_of_one_process_and_ends_with_one(tmp_path: Path) -> None:
    said, begin, family = "", 0.0, []
    with start(LAUNCH, tmp_path) as run:
        assert run.stdout is not None
        for line in run.stdout:
            said += line
            if line.startswith("step 2/4"):
                ranks = psutil.Process(run.pid).children()
                (one,) = (each for each in ranks if each.environ().get("RANK") == "1")
                family = [
                    run_of for each in ranks for run_of in (each, *each.children(recursive=True))
                ]
                begin = time.monotonic()
                os.kill(one.pid, signal.SIGKILL)
        run.wait(timeout=ALL_END_SECONDS)
    assert run.returncode != 0
    assert time.monotonic() - begin < ALL_END_SECONDS, said
    running = [process for process in family if process.is_running()]
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in running), running
    folder = tmp_path / "starter"
    files = checkpoint_files(folder / "checkpoints")  # the kill may have come before the second one
    assert [step for step, file in files.items() if file.is_dir()] in ([2, 1], [1])
    # The same again: once with two processes, and in a copy, once with one.
    other = Path(
        shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-one"), symlinks=True)
    )
    said = ended_well(start(LAUNCH, tmp_path))
    assert "this run has" not in said
    said = ended_well(start([sys.executable], other))
    assert "rng states of 2 ranks, this run has 1" in said
    resumed = [rows(each) for each in (folder, other / "starter")]
    for run_rows in resumed:
        assert [row["rollout/step"] for row in run_rows if "rollout/step" in row] == [1, 2, 3, 4]
        assert max(row.get("engine/canary_difference", 0) for row in run_rows) < 1e-4
    last = next(iter(checkpoint_files(folder / "checkpoints").values()))
    assert export([str(folder), str(tmp_path / "out"), "--checkpoint", last.name]) == 0
    given = ["limit=4", "samples=2", "bootstrap_draws=200", "tracking.mlflow=false"]
    where = ["--benchmarks", "starter", "--output", str(tmp_path / "measured")]
    assert evaluate([str(last), *where, *given]) == 0
