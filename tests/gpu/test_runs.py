"""Runs on a GPU: in the default precision, over a base of 4 bits, and resumed."""

from pathlib import Path

import pytest

from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.fit import fit
from tests.gpu.suite import CUDA, DEVICE, GPU
from tests.test_fit import killed_at, rows, small

pytestmark = GPU

RUN = (
    "engine.class_path=ceeh.data.engine.VLLMEngine",
    f"engine.init_args={{kv_cache_gib: 0.5, sleep: {str(CUDA).lower()}}}",
    f"hardware.accelerator={DEVICE}",
)


@pytest.mark.usefixtures("own_process", "without_figures")
@pytest.mark.parametrize("overrides", [(), ("model.lora.rank=4", "objective.entropy.method=ea")])
def test_a_run_of_the_default_precision_trains(
    tiny_model_dir: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    folder = fit(small(tiny_model_dir, tmp_path, *RUN, "rollouts.steps=3", *overrides))
    lines = [line for line in rows(folder) if "engine/canary_difference" in line]
    assert len(lines) == 3
    assert all(line["engine/canary_difference"] < 0.1 for line in lines)


@pytest.mark.usefixtures("without_figures")
def test_a_resumed_run_has_the_numbers_of_a_whole_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    """In fp32, where kernels differ by the order of sums alone; three engines in turn, so without sleep."""
    fixed = (*RUN, "engine.init_args.sleep=false", "hardware.precision=32-true")
    whole = fit(small(tiny_model_dir, tmp_path / "whole", *fixed))
    with killed_at(VLLMEngine, 6):  # rollout step 4; the checkpoint is of step 2
        fit(small(tiny_model_dir, tmp_path / "parts", *fixed))
    parts = fit(small(tiny_model_dir, tmp_path / "parts", *fixed, "ckpt_path=last"))
    for one, other in zip(rows(whole), rows(parts), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if not name.startswith(("engine/canary", "engine/mismatch", "optimizer/mfu")):
                close = value and pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True)
                assert other[name] == close, name


@pytest.mark.usefixtures("own_process")
@pytest.mark.skipif(not CUDA, reason="bitsandbytes is for CUDA here")
def test_a_run_with_a_4_bit_base_and_8_bit_moments_trains(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    quantized = ("model.lora.rank=4", "model.lora.base=nf4", "optimizer.moments=8bit")
    folder = fit(small(tiny_model_dir, tmp_path, *RUN, "rollouts.steps=3", *quantized))
    lines = [line for line in rows(folder) if "engine/canary_difference" in line]
    assert all(line["engine/canary_difference"] < 0.2 for line in lines)
