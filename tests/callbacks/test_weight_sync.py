"""WeightSync: what the engine holds is what the trainer has, and a difference stops the run."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ceeh.config.settings import Config, load
from ceeh.fit import fit
from tests.test_fit import SHIPPED, SMALL, rows
from tests.torch_engine import TorchEngine

pytestmark = pytest.mark.usefixtures("without_figures")


def run(model: Path, output: Path, *overrides: str) -> Path:
    config: Config = load(
        [SHIPPED],
        [*SMALL, f"model.path={model}", f"output={output}", "rollouts.steps=2", *overrides],
    )
    return fit(config)


def test_engine_and_trainer_agree_after_every_push_and_the_difference_is_logged(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    # One optimizer step per rollout step: a second one would count its own drift as mismatch.
    folder = run(tiny_model_dir, tmp_path, "optimizer.prompts_per_minibatch=4")
    steps = [row for row in rows(folder) if "loss/policy" in row]
    differences = [row["engine/canary_difference"] for row in steps]
    assert len(differences) == 2
    assert max(differences) < 1e-4  # nats; both sides are float32
    assert all(0 <= row["engine/mismatch_kl"] < 1e-3 for row in steps)


def test_an_engine_that_keeps_a_stale_weight_stops_the_run(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(
        self: TorchEngine, weights: Iterable[tuple[str, Tensor]], *, policy_version: int
    ) -> None:
        kept = self.model.model.norm.weight.detach().clone()
        load_weights(self, weights, policy_version=policy_version)
        with torch.no_grad():
            self.model.model.norm.weight.copy_(kept)

    load_weights = TorchEngine.load_weights
    monkeypatch.setattr(TorchEngine, "load_weights", forgetful)
    message = r"policy version 2 engine and trainer differ by .* tolerance of 1e-06"
    with pytest.raises(RuntimeError, match=message):
        run(tiny_model_dir, tmp_path, "rollouts.canary_tolerance=1e-6", "optimizer.lr=0.1")
