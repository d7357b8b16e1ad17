"""Model folders that are not whole, or not what they say, end before a run folder is made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.bad_input.conftest import Refused
from tests.evil import change


def weights(model: Path, spoil: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    spoil(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def cut(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20_000])


def more_tokens(model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["vocab"]["surplus"] = 4000
    (model / "tokenizer.json").write_text(json.dumps(content))


def named_twice(
    tensors: dict[str, torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    tensors["model.norm.weight"] = change(tensors["model.norm.weight"])


CASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (
        lambda m: (m / "config.json").unlink(),
        ["has no config.json", "save_pretrained"],
    ),
    "no tokenizer": (
        lambda m: [f.unlink() for f in m.glob("tokenizer*")],
        ["cannot load model or tokenizer", "tokenizer.json"],
    ),
    "no weights": (
        lambda m: (m / "model.safetensors").unlink(),
        ["has no weights (*.safetensors)"],
    ),
    "weights cut off": (cut, ["cannot be loaded", "safetensors"]),
    "weights empty": (lambda m: (m / "model.safetensors").write_bytes(b""), ["cannot be loaded"]),
    "weights a text": (
        lambda m: (m / "model.safetensors").write_text("hello " * 99),
        ["cannot be loaded"],
    ),
    "a weight missing": (
        lambda m: weights(m, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        ["lack 1 weights, e.g. 'model.layers.1.mlp.up_proj.weight'", "random"],
    ),
    "a weight of another shape": (
        lambda m: weights(m, lambda t: named_twice(t, lambda w: w[:-1].clone())),
        ["cannot be loaded"],
    ),
    "a weight NaN": (
        lambda m: weights(m, lambda t: named_twice(t, lambda w: w * float("nan"))),
        ["weight 'model.norm.weight' contains NaN or infinity"],
    ),
    "a weight infinite": (
        lambda m: weights(m, lambda t: named_twice(t, lambda w: w / 0)),
        ["weight 'model.norm.weight' contains NaN or infinity"],
    ),
    "config cut off": (
        lambda m: (m / "config.json").write_text((m / "config.json").read_text()[:99]),
        ["cannot load model or tokenizer", "config.json"],
    ),
    "config a list": (
        lambda m: (m / "config.json").write_text("[]"),
        ["cannot load model or tokenizer"],
    ),
    "config empty": (
        lambda m: (m / "config.json").write_text("{}"),
        ["cannot load model or tokenizer"],
    ),
    "another kind of model": (
        lambda m: change(m / "config.json", model_type="t5", architectures=["T5Model"]),
        ["model.path"],
    ),
    "an unknown kind": (
        lambda m: change(m / "config.json", model_type="nothing-of-the-kind"),
        ["cannot load model or tokenizer", "nothing-of-the-kind"],
    ),
    "sizes that are texts": (
        lambda m: change(m / "config.json", hidden_size="wide"),
        ["model.path"],
    ),
    "other sizes": (
        lambda m: change(m / "config.json", intermediate_size=48),
        ["cannot be loaded"],
    ),
    "more tokens than rows": (
        more_tokens,
        ["tokens up to 4000", "embedding has", "rows", "resize_token"],
    ),
    "tokenizer cut off": (
        lambda m: (m / "tokenizer.json").write_text('{"version": "1.0", "trunc'),
        ["cannot load model or tokenizer"],
    ),
    "tokenizer a list": (
        lambda m: (m / "tokenizer.json").write_text("[1, 2]"),
        ["cannot load model or tokenizer"],
    ),
    "no end of sequence": (
        lambda m: change(m / "tokenizer_config.json", eos_token=None),
        ["has no end-of-sequence token", "set eos_token"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_model(case: str, refused: Refused, tiny_model_dir: Path, tmp_path: Path) -> None:
    spoil, parts = CASES[case]
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    spoil(model)
    refused([f"model.path={model}"], "model.path", str(model), *parts)


@pytest.mark.parametrize(
    "path", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c", "no such\x00", "x\x1by"]
)
def test_a_place_that_is_no_model(path: str, refused: Refused, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    escaped = path.encode("unicode_escape").decode()
    overlay.write_text(f'model: {{path: "{escaped}"}}\n')
    refused([], "model.path", files=(overlay,))


def test_a_file_is_no_model(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"")
    refused([f"model.path={tmp_path / 'weights.safetensors'}"], "model.path: no folder")
