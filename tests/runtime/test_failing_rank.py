"""One of two processes fails: both end, both engines are closed, and the cause is said once."""

import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ceeh.data.engine.base import Sampling
from ceeh.errors import RunError
from ceeh.runtime.distributed import rank
from ceeh.types import Prompt, RolloutGroup
from tests.runtime.test_distributed import LAUNCH, ROOT
from tests.test_fit import SHIPPED, SMALL
from tests.torch_engine import TorchEngine

pytestmark = pytest.mark.slow


class Failing(TorchEngine):
    """Fails on the second process in the second step."""

    kind: type[Exception] = RunError

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        if self.policy_version == 2 and rank() == 1:
            raise self.kind("the second process is out of memory")
        return super().generate(prompts, sampling)

    def close(self) -> None:
        print(f"\nengine of process {rank()} closed", flush=True)


class FailingWithoutWords(Failing):
    kind = RuntimeError


class FullDisk(Failing):
    """The disk is full for the first process while the base is measured."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        if rank() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        return super().generate(prompts, sampling)


def run_of_two(*given: str) -> str:
    """What a run of two processes, which must fail, says."""
    done = subprocess.run(
        [*LAUNCH, "-m", "ceeh.fit", "--config", str(SHIPPED), *SMALL, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,  # of a hang
    )
    assert done.returncode != 0
    return done.stdout


def test_samples_that_do_not_fit_on_the_first_ones_disk_end_both(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    engine = "engine.class_path=tests.runtime.test_failing_rank.FullDisk"
    said = run_of_two(engine, f"model.path={tiny_model_dir}", f"output={tmp_path}/two")
    assert said.count("error: ") == 2, said[-3000:]
    assert said.count("base.npz' cannot be written (File too large), ") == 2
    assert "Traceback (most recent call last)" not in said.partition("elastic")[0]


@pytest.mark.parametrize("engine", ["Failing", "FailingWithoutWords"])
def test_a_process_that_fails_ends_the_other_and_its_engine(
    engine: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    given = [f"engine.class_path=tests.runtime.test_failing_rank.{engine}", "rollouts.steps=3"]
    said = run_of_two(*given, f"model.path={tiny_model_dir}", f"output={tmp_path}/two")
    for number in range(2):
        assert f"engine of process {number} closed" in said, said[-3000:]
    assert said.count("the second process is out of memory") >= 1
    assert "Traceback (most recent call last)" not in said.partition("elastic")[0]
