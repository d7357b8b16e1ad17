"""Damaged or mismatched model folders are refused before a run folder is made."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ceeh.data.engine.families import check_family
from ceeh.pretrained.loading import num_positions
from tests.bad_input.conftest import Refused
from tests.evil import change
from tests.families import save_model

Spoil = Callable[[Path], object]
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def write(name: str, content: str | bytes) -> Spoil:
    content = content.encode() if isinstance(content, str) else content
    return lambda model: (model / name).write_bytes(content)


def truncate(name: str, size: int) -> Spoil:
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:size])


def remove(pattern: str) -> Spoil:
    return lambda model: [file.unlink() for file in model.glob(pattern)]


def configure(name: str = CONFIG, **values: object) -> Spoil:
    return lambda model: change(model / name, **values)


def weight(name: str, new: Callable[[torch.Tensor], torch.Tensor] | None) -> Spoil:
    """Replaces one weight, or removes it."""

    def spoil(model: Path) -> None:
        tensors = load_file(model / WEIGHTS)
        old = tensors.pop(name)
        save_file(tensors | ({name: new(old)} if new else {}), model / WEIGHTS, {"format": "pt"})

    return spoil


def more_tokens(model: Path) -> None:
    content = json.loads((model / TOKENIZER).read_text())
    content["model"]["vocab"]["surplus"] = 4000
    (model / TOKENIZER).write_text(json.dumps(content))


NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
CASES: dict[str, tuple[Spoil, str]] = {
    "no config": (remove(CONFIG), "has no config.json ... save_pretrained"),
    "no tokenizer": (remove("tokenizer*"), "model or tokenizer ... tokenizer.json"),
    "no weights": (remove(WEIGHTS), "has no weights (*.safetensors)"),
    "weights truncated": (truncate(WEIGHTS, 20_000), "cannot be loaded ... safetensors"),
    "weights empty": (write(WEIGHTS, b""), "cannot be loaded"),
    "weights a text": (write(WEIGHTS, "hello " * 99), "cannot be loaded"),
    "a weight missing": (weight(UP, None), f"lack 1 weights, e.g. '{UP}' ... random"),
    "a weight of another shape": (weight(NORM, lambda w: w[:-1].clone()), "cannot be loaded"),
    "a weight NaN": (weight(NORM, lambda w: w * math.nan), f"'{NORM}' contains NaN or infinity"),
    "a weight infinite": (weight(NORM, lambda w: w / 0), f"'{NORM}' contains NaN or infinity"),
    "config truncated": (truncate(CONFIG, 99), "model or tokenizer ... config.json"),
    "config a list": (write(CONFIG, "[]"), "model or tokenizer"),
    "config empty": (write(CONFIG, "{}"), "model or tokenizer"),
    "another kind of model": (configure(model_type="t5", architectures="T5Model"), "model.path"),
    "an unknown kind": (
        configure(model_type="nothing-like"),
        "model or tokenizer ... nothing-like",
    ),
    "sizes that are texts": (configure(hidden_size="wide"), "model.path"),
    "other sizes": (configure(intermediate_size=48), "cannot be loaded"),
    "more tokens than rows": (more_tokens, "tokens up to 4000 ... embedding has ... resize_token"),
    "tokenizer truncated": (write(TOKENIZER, '{"version": "1.0", "trunc'), "model or tokenizer"),
    "tokenizer a list": (write(TOKENIZER, "[1, 2]"), "model or tokenizer"),
    "no end of sequence": (
        configure("tokenizer_config.json", eos_token=None),
        "has no end-of-sequence token ... set eos_token",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_invalid_model(
    case: str, refused: Refused, tiny_model_dir: Path, tmp_path: Path
) -> None:
    spoil, parts = CASES[case]
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    spoil(model)
    refused([f"model.path={model}"], "model.path", str(model), parts)


def test_a_model_that_cannot_be_trained(
    refused: Refused, tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    change(model / CONFIG, logit_scale=2.0)
    refused(
        [f"model.path={model}"],
        "model.path",
        "the chunked head differ by ... cannot be trained",
    )


def test_a_path_that_is_not_a_model(refused: Refused, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    for path in ("./nowhere", "/nowhere", "~/nowhere", "a/b/c", r"no such\x00", r"x\x1by"):
        overlay.write_text(f'model: {{path: "{path}"}}\n')
        refused([], "model.path", files=(overlay,))
    (tmp_path / "weights.safetensors").write_bytes(b"")
    refused([f"model.path={tmp_path / 'weights.safetensors'}"], "model.path: no folder")


def test_a_response_limit_beyond_the_models_positions(refused: Refused) -> None:
    refused(
        ["rollouts.max_response_tokens=500"],
        "prompts.max_prompt_tokens + rollouts.max_response_tokens must be at most 512, the positions of",
        "got ",
    )


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({}, 512),
        ({"rope_type": "llama3", "factor": 8.0}, 512),
        ({"rope_type": "linear", "factor": 2.0}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        (
            {"full": {"rope_type": "dynamic", "factor": 2.0}, "sliding": {"rope_type": "default"}},
            1024,
        ),
    ],
)
def test_scaled_positions_count_as_the_engine_counts_them(rope: dict, expected: int) -> None:
    config = SimpleNamespace(max_position_embeddings=512, rope_parameters=rope)
    assert num_positions(config) == expected
    assert num_positions(SimpleNamespace(n_positions=64)) == 64
    assert num_positions(SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("gpt_oss", "the family gpt_oss cannot be trained: vLLM loads its experts past"),
        ("lfm2", "lfm2 cannot be trained in float32 on the CPU: its convolutions"),
        ("qwen3_5", "qwen3_5_text cannot be trained in float32 on the CPU: vLLM's CPU kernel"),
    ],
)
def test_a_family_that_cannot_be_trained(
    family: str, parts: str, refused: Refused, tmp_path: Path
) -> None:
    save_model(family, tmp_path / "model")
    engine = "engine.class_path=ceeh.data.engine.VLLMEngine"
    refused([f"model.path={tmp_path / 'model'}", engine], parts, "docs/models.md")


@pytest.mark.parametrize("given", [("cuda", "float32"), ("cpu", "bfloat16")])
def test_what_float32_on_the_cpu_lacks_is_no_reason_elsewhere(given: tuple[str, str]) -> None:
    accelerator, dtype = given
    check_family(SimpleNamespace(model_type="qwen3_next"), accelerator=accelerator, dtype=dtype)
    check_family(SimpleNamespace(model_type="qwen3"), accelerator="cpu", dtype="float32")
