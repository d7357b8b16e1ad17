"""Two processes under torchrun: one run folder, the numbers of one process."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ceeh.config.settings import load
from ceeh.data.engine.base import Sampling
from ceeh.errors import ConfigError, RunError
from ceeh.fit import fit
from ceeh.modules.metrics import over_ranks, row_means
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import check_group_size, other_processes_watched
from ceeh.types import Prompt, RolloutGroup
from fault_injection.equality import differences
from tests.test_fit import SHIPPED, SMALL, rows
from tests.torch_engine import TorchEngine

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


class Waiting(TorchEngine):
    """Waits, in the second step, for a termination signal."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        if self.policy_version == 2:
            for _ in range(3000):
                shutdown.check()
                time.sleep(0.1)
        return super().generate(prompts, sampling)


@pytest.fixture(scope="module")
def once(tiny_model_dir: Path) -> list[str]:
    return [*SMALL, f"model.path={tiny_model_dir}", "rollouts.steps=2"]


def two_processes(given: list[str], output: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*LAUNCH, "-m", "ceeh.fit", "--config", str(SHIPPED), *given, f"output={output}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=output.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def ended_well(run: subprocess.Popen) -> str:
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said[-3000:]
    return said


@pytest.fixture(scope="module")
def two(once: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two processes, and what it said."""
    output = tmp_path_factory.mktemp("ranks") / "two"
    said = ended_well(two_processes(once, output))
    assert sorted(path.name for path in output.iterdir()) == ["latest", "starter"]
    return output / "starter", said


def test_two_processes_give_the_numbers_of_one(
    once: list[str], two: tuple[Path, str], tmp_path: Path
) -> None:
    # The ranks' sums round otherwise than one process's, so the second step may sample otherwise:
    # only the first is compared number by number.
    one = fit(load([SHIPPED], [*once, f"output={tmp_path}/one"]))
    folder, said = two
    assert said.count("measuring base") == 1
    first, second = (
        next(row for row in rows(each) if "loss/policy" in row) for each in (one, folder)
    )
    names = {name for name in first if not name.startswith("optimizer/padding")}
    assert names <= second.keys()
    for name in sorted(names):
        value = first[name]  # None for a mean of nothing, such as of the easy questions
        expected = None if value is None else pytest.approx(value, rel=1e-3, abs=1e-5)
        assert second[name] == expected, name
    base = [json.loads((each / "summary.json").read_text())["base"] for each in (one, folder)]
    assert base[1]["all"]["accuracy"] == base[0]["all"]["accuracy"]
    assert base[1]["all"]["tokens"] == base[0]["all"]["tokens"]


def test_two_processes_stop_together_and_resume_to_equal_numbers(
    once: list[str], two: tuple[Path, str], tmp_path: Path
) -> None:
    given, said = [*once, "ckpt_path=last"], ""
    waiting = [*given, "engine.class_path=tests.runtime.test_distributed.Waiting"]
    with two_processes(waiting, tmp_path / "stopped") as run:
        assert run.stdout is not None
        for line in run.stdout:
            said += line
            if line.startswith("step 1/2"):
                run.send_signal(signal.SIGTERM)  # torchrun hands it to both
    assert run.returncode != 0
    assert said.count("stopped by SIGTERM; ") == 2, said[-3000:]
    assert said.count("rollout step 1 is saved") == 1
    ended_well(two_processes(given, tmp_path / "stopped"))
    assert differences(two[0], tmp_path / "stopped" / "starter", common=True) == []
    assert rows(two[0]) == rows(tmp_path / "stopped" / "starter")


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
    assert "That was failure 2 in a row, as many as checkpoints.max_failures allows" in done.stderr
    assert not list((tmp_path / "two" / "starter" / "checkpoints").iterdir())


@pytest.mark.parametrize("key", ["rollouts.prompts_per_step", "optimizer.prompts_per_minibatch"])
def test_shares_that_do_not_divide_are_refused(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = [*SMALL, f"model.path={tiny_model_dir}", f"output={tmp_path}", f"{key}=3"]
    with pytest.raises(ConfigError, match=rf"{key} is over all processes .* \(2\), got 3"):
        fit(load([SHIPPED], given))


@pytest.mark.parametrize(
    ("requested", "error", "message"),
    [
        (None, RunError, "process 0 of 2 has lost another one"),
        (signal.SIGTERM, shutdown.Stopped, "stopped by SIGTERM"),
    ],
)
def test_a_process_that_a_stop_ended_first_is_not_an_error_of_the_others(
    monkeypatch: pytest.MonkeyPatch, requested, error, message
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(shutdown, "requested", lambda: requested)
    with pytest.raises(error, match=message), other_processes_watched():
        raise RuntimeError("[gloo] Connection closed by peer")


@pytest.mark.parametrize(
    ("size", "processes", "here", "message"),
    [
        (
            3,
            8,
            8,
            r"place is 3, but the number of processes, 8, is not a multiple of it; start a mul",
        ),
        (
            4,
            8,
            2,
            r"place is 4, but each machine has 2 processes, which is not a multiple of it; ra",
        ),
        (0, 8, 8, r"place must be a whole number, at least 1, got 0"),
        ("two", 8, 8, r"place must be a whole number, at least 1, got two"),
    ],
)
def test_ranks_that_cannot_be_neighbors_are_refused(size, processes, here, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_group_size(size, processes=processes, here=here, setting="place")
    check_group_size(2, processes=8, here=4, setting="place")


def test_numbers_of_ranks_are_joined_by_their_kind() -> None:
    ranks = [
        {"time/waiting": 0.75, "time/waiting_max": 0.75, "reward/outcome_ok": 3.0},
        {"time/waiting": 0.5, "time/waiting_max": 0.5, "reward/outcome_ok": 4.0},
        {"time/waiting": 1.0, "time/waiting_max": 1.0, "reward/outcome_ok": 0.0},
    ]
    assert over_ranks(ranks) == {
        "time/waiting": 0.75,
        "time/waiting_max": 1.0,
        "reward/outcome_ok": 7.0,
    }
    # One wrong response of 8 tokens, two of 5, none: (8 + 10) / 3.
    wrong = [[8.0, math.nan], [5.0, 5.0], [math.nan, math.nan]]
    ranks = [{"rollout/tokens_wrong": torch.tensor(rows)} for rows in wrong]
    assert row_means(ranks) == {"rollout/tokens_wrong": 6.0}
