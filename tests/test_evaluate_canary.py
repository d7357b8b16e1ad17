"""An evaluation of a run, checkpoint or adapter begins with the canary; another model is not sampled."""

import functools
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ceeh.config.component import Component
from ceeh.evaluate import main
from ceeh.evaluate.engine import tolerance_of
from ceeh.evaluation.config import EvaluationConfig
from ceeh.export import main as export
from tests.conftest import FinishedRun
from tests.test_evaluate import run
from tests.torch_engine import TorchEngine


@pytest.fixture
def places(lora_run: FinishedRun, tmp_path: Path) -> dict[str, Path]:
    """One run as its final model, its checkpoint and its adapter."""
    assert export([str(lora_run.path), str(tmp_path / "adapter"), "--adapter"]) == 0
    checkpoint = lora_run.path / "checkpoints" / "step-000002.ckpt"
    return {"run": lora_run.path, "checkpoint": checkpoint, "adapter": tmp_path / "adapter"}


@pytest.mark.parametrize(
    ("kind", "pushes"), [("run", []), ("checkpoint", ["load 0"]), ("adapter", ["load 0"])]
)
def test_the_engine_holds_what_was_trained(
    places: dict[str, Path], tmp_path: Path, kind: str, pushes: list[str]
) -> None:
    TorchEngine.events.clear()
    assert run(places[kind], tmp_path / "out", "limit=4") == 0
    version = 0 if pushes else -1
    assert TorchEngine.events == [*pushes, f"generate {version}"]


@pytest.mark.parametrize("kind", ["run", "checkpoint", "adapter"])
def test_an_engine_with_another_model_is_not_sampled(
    places: dict[str, Path],
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def off(model: torch.nn.Module) -> None:
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.9)

    @functools.wraps(TorchEngine.__init__)
    def built(self: TorchEngine, *arguments: object, **more: object) -> None:
        init(self, *arguments, **more)  # type: ignore[arg-type]
        off(self.model)

    def pushed(
        self: TorchEngine, weights: Iterable[tuple[str, Tensor]], *, policy_version: int
    ) -> None:
        load(self, weights, policy_version=policy_version)
        off(self.model)

    init, load = TorchEngine.__init__, TorchEngine.load_weights
    monkeypatch.setattr(TorchEngine, "__init__", built)
    monkeypatch.setattr(TorchEngine, "load_weights", pushed)
    assert run(places[kind], tmp_path / "out", "limit=4") == 1
    message = capsys.readouterr().err
    assert "was not evaluated: engine and trainer differ by" in message
    assert "more than the tolerance of 0.001" in message
    assert "raise canary_tolerance\n" in message
    assert not list(tmp_path.rglob("*.parquet"))
    assert run(places[kind], tmp_path / "out", "limit=4", "canary_tolerance=50") == 0


def test_an_adapter_that_cannot_be_applied_is_refused_before_the_engine(
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(TorchEngine, "__init__", lambda *_, **__: pytest.fail("started"))
    file = places["adapter"] / "adapter_config.json"
    file.write_text(file.read_text().replace('"lora_bias": false', '"lora_bias": true'))
    given = [str(places["adapter"]), "--benchmarks", "starter", "--output", str(tmp_path / "out")]
    assert main(given) == 2
    assert "lora_bias is True, which cannot be applied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "engine", "dtype", "expected"),
    [
        ({}, {}, "float32", 1e-3),
        ({}, {}, "bfloat16", 0.1),
        ({}, {"dtype": "bfloat16"}, "float32", 0.1),
        ({}, {"dtype": "float32"}, "float32", 1e-3),
        ({"canary_tolerance": 0.5}, {}, "float32", 0.5),
    ],
)
def test_the_tolerance_follows_the_engines_dtype(
    changes: dict, engine: dict, dtype: str, expected: float
) -> None:
    component = Component("ceeh.data.engine.VLLMEngine", engine)
    assert tolerance_of(EvaluationConfig(**changes), component, dtype) == expected
