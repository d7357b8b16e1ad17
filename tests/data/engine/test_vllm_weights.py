"""What a push of weights must hold, and which heads are packed again after it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ceeh.data.engine.vllm_weights import (
    checked,
    release_packed,
    repack_heads,
    skeleton,
    weight_shapes,
)
from tests.families import save_model


@pytest.fixture(scope="module")
def weights(tiny_model_dir: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def test_a_complete_push_passes_unchanged_and_lazily(tiny_model_dir, weights):
    shapes = weight_shapes(skeleton(str(tiny_model_dir), trust_remote_code=False))
    drawn = []
    stream = checked((drawn.append(name) or (name, w) for name, w in weights.items()), shapes)
    name, weight = next(stream)
    assert drawn == [name]
    assert weight is weights[name]
    assert [name, *(name for name, _ in stream)] == list(weights)


def test_a_tied_head_is_optional(tiny_model_dir, weights):
    shapes = weight_shapes(skeleton(str(tiny_model_dir), trust_remote_code=False))
    assert "lm_head.weight" not in weights
    head = {"lm_head.weight": weights["model.embed_tokens.weight"]}
    assert len(list(checked((weights | head).items(), shapes))) == len(weights) + 1


def without_a_norm(weights: dict) -> dict:
    return {name: weight for name, weight in weights.items() if name != "model.norm.weight"}


@pytest.mark.parametrize(
    ("model", "push", "message"),
    [
        ("untied_model_dir", dict, r"lacks 1 of \d+ weights, the first 'lm_head.weight'"),
        (
            "tiny_model_dir",
            without_a_norm,
            r"lacks 1 of \d+ weights, the first 'model.norm.weight'",
        ),
        ("tiny_model_dir", lambda weights: {}, r"lacks (\d+) of \1 weights"),
        (
            "tiny_model_dir",
            lambda weights: {f"module.{name}": weight for name, weight in weights.items()},
            r"'module\.model\..*such as 'model\.embed_tokens",
        ),
        (
            "tiny_model_dir",
            lambda weights: weights | {"model.norm.weight": torch.ones(31)},
            r"'model.norm.weight' with shape \(31,\).* model has \(32,\)",
        ),
    ],
    ids=["untied head", "a weight missing", "empty", "another name", "another shape"],
)
def test_an_incomplete_or_foreign_push_is_refused(
    request: pytest.FixtureRequest, weights, model, push, message
):
    shapes = weight_shapes(skeleton(str(request.getfixturevalue(model)), trust_remote_code=False))
    with pytest.raises(ValueError, match=message):
        list(checked(push(weights).items(), shapes))


def test_only_heads_that_keep_their_plain_weight_are_packed_again():
    packed = []

    class Method:
        def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
            packed.append(layer)

    def layer(*, rows: int, has_packed_copy: bool) -> torch.nn.Linear:
        module = torch.nn.Linear(2, rows)
        module.quant_method = Method()  # type: ignore[assignment]
        if has_packed_copy:
            module.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]
        return module

    head = layer(rows=3, has_packed_copy=True)
    emptied = layer(rows=3, has_packed_copy=True)
    emptied.weight = torch.nn.Parameter(torch.empty(0))
    plain = layer(rows=3, has_packed_copy=False)
    repack_heads(torch.nn.Sequential(emptied, plain, head))
    assert packed == [head]


def test_experts_lose_their_kernel_on_the_cpu_so_that_the_push_packs_them():
    layer = torch.nn.Linear(2, 2)
    layer.quant_method = SimpleNamespace(moe_kernel=object())  # type: ignore[assignment]
    elsewhere = torch.nn.Linear(2, 2, device="meta")
    elsewhere.quant_method = SimpleNamespace(moe_kernel=object())  # type: ignore[assignment]
    release_packed(torch.nn.Sequential(layer, elsewhere, torch.nn.Linear(2, 2)))
    assert layer.quant_method.moe_kernel is None
    assert elsewhere.quant_method.moe_kernel is not None


def test_a_persistent_buffer_must_come_and_files_name_the_weights(tmp_path):
    # A gate of experts in files: gate.e_score_correction_bias is a buffer; experts are a matrix each.
    save_model("deepseek_v3", tmp_path)
    shapes = weight_shapes(skeleton(str(tmp_path), trust_remote_code=False))
    assert shapes.required.keys() == load_file(tmp_path / "model.safetensors").keys()
