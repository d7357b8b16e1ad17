"""Two processes under torchrun: one run folder, the numbers of one process."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ceeh.component import ConfigError
from ceeh.config import load
from ceeh.fit import fit
from ceeh.modules.step_metrics import over_ranks, row_means
from drills.equality import differences
from tests.test_fit import SHIPPED, SMALL, rows

ROOT = Path(__file__).parent.parent
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def two_processes(model: Path, output: Path, *overrides: str) -> subprocess.Popen:
    given = [*SMALL, f"model.path={model}", f"output={output}", *overrides]
    return subprocess.Popen(
        [*LAUNCH, "-m", "ceeh.fit", "--config", str(SHIPPED), *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=output.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_stop_together_and_go_on_to_equal_numbers(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    given = ("rollouts.steps=3", "checkpoints.every_n_steps=3", "ckpt_path=last")
    whole = two_processes(tiny_model_dir, tmp_path / "whole", *given)
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said[-3000:]

    stopped, said = two_processes(tiny_model_dir, tmp_path / "stopped", *given), ""
    assert stopped.stdout is not None
    for line in stopped.stdout:
        said += line
        if line.startswith("step 1/3"):
            stopped.send_signal(signal.SIGTERM)  # torchrun hands it to both
    assert stopped.wait(timeout=300) != 0
    assert said.count("stopped by SIGTERM; continue with ckpt_path=last") == 2, said[-3000:]
    assert len(re.findall(r"rollout step [12] is saved", said)) == 1
    goes_on = two_processes(tiny_model_dir, tmp_path / "stopped", *given)
    said, _ = goes_on.communicate(timeout=300)
    assert goes_on.returncode == 0, said[-3000:]
    folders = [tmp_path / name / "starter" for name in ("whole", "stopped")]
    assert differences(*folders, common=True) == []
    assert rows(folders[0]) == rows(folders[1])


def test_two_processes_give_the_numbers_of_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    once = [*SMALL, f"model.path={tiny_model_dir}", "rollouts.steps=2"]
    # The ranks' sums round otherwise than one process's, so the second step may sample otherwise:
    # only the first is compared number by number.
    one = fit(load([SHIPPED], [*once, f"output={tmp_path}/one"]))
    program = ["-m", "ceeh.fit", "--config", str(SHIPPED), *once, f"output={tmp_path}/two"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*LAUNCH, *program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["latest", "starter"]
    two = tmp_path / "two" / "starter"
    assert done.stdout.count("measuring base") == 1
    first, second = (
        next(row for row in rows(folder) if "loss/policy" in row) for folder in (one, two)
    )
    names = {name for name in first if not name.startswith("optimizer/padding")}
    assert names <= second.keys()
    for name in sorted(names):
        assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-5), name
    base = [json.loads((folder / "summary.json").read_text())["base"] for folder in (one, two)]
    assert base[1]["all"]["accuracy"] == base[0]["all"]["accuracy"]
    assert base[1]["all"]["tokens"] == base[0]["all"]["tokens"]


def test_saves_that_fail_on_rank_zero_stop_all_ranks(tiny_model_dir: Path, tmp_path: Path) -> None:
    given = ["rollouts.steps=3", "checkpoints.every_n_steps=1", "checkpoints.max_failures=2"]
    program = ["-m", "ceeh.fit", "--config", str(SHIPPED), *SMALL, *given]
    # Of a checkpoint's 480 thousand bytes; everything else that the run writes is smaller.
    limit = f"ulimit -f 300; exec {shlex.join([*LAUNCH, *program])} model.path={tiny_model_dir}"
    done = subprocess.run(
        ["bash", "-c", f"{limit} output={tmp_path}/two"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,  # of a hang
    )
    assert done.returncode != 0
    assert done.stderr.count("the checkpoint of rollout step 1 was not written") == 1
    # Both ranks end by the same error, neither because the other was gone.
    assert done.stderr.count("error: the checkpoint of rollout step 2 was not written") == 2
    assert "That was failure 2 in a row (checkpoints.max_failures)" in done.stderr
    assert not list((tmp_path / "two" / "starter" / "checkpoints").iterdir())


@pytest.mark.parametrize("key", ["rollouts.prompts_per_step", "optimizer.prompts_per_minibatch"])
def test_shares_that_do_not_divide_are_refused(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = [*SMALL, f"model.path={tiny_model_dir}", f"output={tmp_path}", f"{key}=3"]
    with pytest.raises(ConfigError, match=rf"{key} is over all processes .* \(2\), got 3"):
        fit(load([SHIPPED], given))


def test_numbers_of_ranks_are_joined_by_their_kind() -> None:
    ranks = [
        {"rollout/accuracy": 0.75, "rollout/tokens_max": 9.0, "reward/outcome_ok": 3.0},
        {"rollout/accuracy": 0.5, "rollout/tokens_max": 7.0, "reward/outcome_ok": 4.0},
        {"rollout/accuracy": 1.0, "rollout/tokens_max": 8.0, "reward/outcome_ok": 0.0},
    ]
    assert over_ranks(ranks) == {
        "rollout/accuracy": 0.75,
        "rollout/tokens_max": 9.0,
        "reward/outcome_ok": 7.0,
    }
    # One wrong response of 8 tokens, two of 5, none: (8 + 10) / 3.
    wrong = [(8.0, 1), (10.0, 2), (0.0, 0)]
    assert row_means([{"rollout/tokens_wrong": each} for each in wrong]) == {
        "rollout/tokens_wrong": 6.0
    }
