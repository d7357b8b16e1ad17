"""Sharded training over two processes gives the numbers of DDP and of one process."""

import os
import re
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ceeh.config.settings import load
from ceeh.export import main as export
from ceeh.fit import fit
from ceeh.modules.restore import load_policy
from ceeh.pretrained.locate import open_trained
from ceeh.run.checkpoint import checkpoint_files, read_checkpoint
from ceeh.run.shards import tensors
from tests.modules import sharded_runs
from tests.modules.sharded_runs import CASES, FIXED, run_name
from tests.runtime.test_distributed import LAUNCH, ROOT, ended_well, two_processes
from tests.test_fit import SMALL, rows, small

pytestmark = pytest.mark.slow

WEIGHTS = "model.safetensors"
SAME = 1e-5
BF16 = 0.02
"""Largest difference where products are in bf16: sums over ranks round otherwise."""


@pytest.fixture(scope="module")
def runs(
    tiny_model_dir: Path, without_figures: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of all cases, by one process and by two."""
    folder = tmp_path_factory.mktemp("sharded")
    half = folder / "bf16"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(half)
    output = folder / "runs"
    done = subprocess.run(
        [*LAUNCH, "-m", "tests.modules.sharded_runs", tiny_model_dir, half, output],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,  # of a hang: where ranks differ in their number of forward passes
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (output / "said.txt").write_text(done.stdout)
    sharded_runs.main({"fp32": str(tiny_model_dir), "bf16": str(half)}, output)
    return output


def checkpoint(run: Path) -> Path:
    return next(iter(checkpoint_files(run / "checkpoints").values()))


def state(run: Path) -> dict[str, Tensor]:
    """Weights and moments by their places."""
    content = read_checkpoint(checkpoint(run))
    return {
        name: value
        for part in ("state_dict", "optimizer_states")
        for name, value in tensors(content[part], part)
    }


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_losses_gradients_and_weights_of_one(
    case: str, strategy: str, runs: Path
) -> None:
    one, two = (runs / run_name(case, name) for name in ("auto", strategy))
    tolerance = BF16 if "bf16" in case else SAME
    steps = [[row for row in rows(run) if "loss/policy" in row] for run in (one, two)]
    assert len(steps[0]) == 5
    for alone, together in zip(*steps, strict=True):
        for name in ("loss/policy", "loss/kl", "loss/entropy", "optimizer/grad_norm"):
            assert together[name] == pytest.approx(alone[name], rel=tolerance, abs=tolerance), name
        assert alone["rollout/tokens_total"] == together["rollout/tokens_total"]
    expected, found = state(one), state(two)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


def test_ranks_had_updates_of_different_numbers_of_microbatches(runs: Path) -> None:
    """Otherwise the comparison above shows less than it says."""
    said = (runs / "said.txt").read_text()
    counts = [re.findall(rf"microbatches {rank} (\d+)", said) for rank in range(2)]
    assert len(counts[0]) == len(counts[1]) > 0
    assert counts[0] != counts[1]


@pytest.mark.parametrize("case", ["full", "lora"])
def test_a_sharded_checkpoint_is_resumed_exported_and_loaded_by_one_process(
    case: str, runs: Path, tmp_path: Path
) -> None:
    ends = {}
    for strategy in ("auto", "fsdp"):
        run = Path(shutil.copytree(runs / run_name(case, strategy), tmp_path / strategy))
        last = checkpoint(run)
        assert last.is_dir() == (strategy == "fsdp")
        policy = load_policy(open_trained(str(last)))
        out = tmp_path / f"{strategy}-exported"
        assert export([str(run), str(out), "--checkpoint", last.name, "--dtype", "float32"]) == 0
        longer = ["rollouts.steps=6", "ckpt_path=last", f"name={strategy}"]
        model = load([run / "config.yaml"]).model.path
        given = [*FIXED, *CASES[case], *longer]
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="the checkpoint has the rng states of 2 ranks"
            )
            fit(small(Path(model), tmp_path, *given))
        assert len([row for row in rows(run) if "loss/policy" in row]) == 6
        ends[strategy] = (dict(policy.engine_weights()), load_file(out / WEIGHTS), state(run))
    for expected, found in zip(ends["auto"], ends["fsdp"], strict=True):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=SAME, atol=SAME, msg=name)


def test_processes_that_stop_at_different_moments_save_the_step_together(
    runs: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    name = run_name("full", "fsdp")
    settings = [*SMALL, *FIXED, *CASES["full"], f"model.path={tiny_model_dir}", f"name={name}"]
    given = [*settings, "hardware.strategy=fsdp", "ckpt_path=last"]
    # One is generating, the other waits for it in the update's first collective.
    waiting = [*given, "engine.class_path=tests.fixed_engine.WaitingOnRankOne"]
    said = ""
    with two_processes(waiting, tmp_path / "runs") as run:
        assert run.stdout is not None
        for line in run.stdout:
            said += line
            if line.startswith("step 2/5"):
                time.sleep(2)
                run.send_signal(signal.SIGTERM)  # torchrun hands it to both
    assert run.returncode != 0
    assert said.count("rollout step 2 is saved") == 1, said[-3000:]
    stopped = tmp_path / "runs" / name
    assert [file.name for file in (stopped / "checkpoints").iterdir()] == ["step-000002.ckpt"]
    ended_well(two_processes(given, tmp_path / "runs"))
    expected, found = state(runs / name), state(stopped)
    assert expected.keys() == found.keys()
    assert [
        place for place, value in expected.items() if not torch.equal(found[place], value)
    ] == []
