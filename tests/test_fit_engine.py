"""A whole run with the real engine: killed and resumed, it equals an uninterrupted one."""

import time
from pathlib import Path

import pytest
import torch

from ceeh.config.settings import Config, load
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.fit import fit
from ceeh.tracking.logger import read_state
from tests.listeners import listeners
from tests.test_fit import SHIPPED, killed_at, newest, rows

pytestmark = pytest.mark.engine


def small(output: Path, *overrides: str) -> Config:
    given = [
        f"output={output}",
        f"tracking.mlflow_uri=sqlite:///{output}/mlflow.db",
        "rollouts.steps=4",
        "rollouts.prompts_per_step=8",
        "rollouts.completions_per_prompt=4",
        "rollouts.max_response_tokens=64",
        "optimizer.prompts_per_minibatch=4",
        "evaluation.questions=8",
        "evaluation.samples=2",
        "evaluation.split_samples=1",
        "checkpoints.every_n_steps=2",
        "hardware.accelerator=cpu",
    ]
    return load([SHIPPED], [*given, *overrides])


def delivered_run(folder: Path) -> str:
    """The run's id in MLflow. The delivering thread survives this kill and may still make its database."""
    for _ in range(600):
        if run_id := read_state(folder)["run_id"]:
            return run_id
        time.sleep(0.1)
    raise AssertionError("no MLflow run after a minute")


def test_a_stopped_and_resumed_run_gives_the_numbers_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    generate = VLLMEngine.generate
    heard = set()

    def listening(self: VLLMEngine, prompts, sampling):
        heard.update(listeners())
        return generate(self, prompts, sampling)

    with monkeypatch.context() as patch:
        patch.setattr(VLLMEngine, "generate", listening)
        whole = fit(small(tmp_path / "whole"))
    assert all(address.is_loopback for address, _ in heard), heard
    assert listeners() == set()  # the engine is closed

    with killed_at(VLLMEngine, 6):  # rollout step 4; the checkpoint is of step 2
        fit(small(tmp_path / "stopped"))
    folder = tmp_path / "stopped" / "starter"
    assert not (folder / "summary.json").exists()
    run_id = delivered_run(folder)
    resumed = fit(small(tmp_path / "stopped", "ckpt_path=last"))

    assert resumed == folder
    assert read_state(folder)["run_id"] == run_id
    assert rows(resumed) == rows(whole)
    one, other = newest(whole), newest(resumed)
    for state in (one, other):
        # beartype draws from it while it checks the tests' types, in the thread that sends, too.
        del state["rng_states"][0]["python"]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "rng_states", "rollout_step"):
        assert_equal(one[key], other[key], key)
    assert len(one["callbacks"]) >= 2  # the signals' tables
    assert_equal(one["callbacks"], other["callbacks"], "callbacks")
    for name in ("summary.json", "held_out/base.npz"):
        assert (resumed / name).is_file()


def assert_equal(one: object, other: object, place: str) -> None:
    """Exactly, in nested containers."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=place)
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place  # type: ignore[attr-defined]
        for key, value in one.items():
            assert_equal(value, other[key], f"{place}.{key}")  # type: ignore[index]
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place  # type: ignore[arg-type]
        for index, (a, b) in enumerate(zip(one, other, strict=True)):  # type: ignore[call-overload]
            assert_equal(a, b, f"{place}[{index}]")
    else:
        assert one == other or one != one, place
