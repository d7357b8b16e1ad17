"""An adapter is pushed as peft applies it, to 1e-5 nats, or refused before its base is loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from ceeh.errors import ConfigError
from ceeh.modules.restore import load_policy
from ceeh.pretrained.locate import open_trained

TOLERANCE = 1e-5  # nats; float32, by another order of sums
TOKEN_IDS = torch.arange(40).view(2, 20) % 31 + 2
SIZES: dict[str, Any] = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),  # has biases
    "tied": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(
        **{"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2},
        **{"bos_token_id": 0, "eos_token_id": 1},
    ),
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "phi3": lambda: transformers.Phi3Config(**SIZES),  # fused projections
    "moe": lambda: transformers.Qwen3MoeConfig(**SIZES, **MOE),
}
pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of much that is made here on purpose
LINEAR = {"target_modules": "all-linear"}
QUERY = {"target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each family whose logits are far from uniform."""
    parent = tmp_path_factory.mktemp("bases")
    for name, config in FAMILIES.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config())
        for weight in model.parameters():
            torch.nn.init.normal_(weight, mean=float(weight.dim() == 1), std=0.15)
        model.save_pretrained(parent / name)
    return {name: parent / name for name in FAMILIES}


def make(base: Path, folder: Path, **settings: Any) -> Tensor:
    """Saves a random adapter over `base`; its log-probs by peft's own forward."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    task: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
    adapted: Any = get_peft_model(model, LoraConfig(**task | settings))
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
    adapted.save_pretrained(folder)
    return logprobs(adapted.eval())


@torch.no_grad()
def logprobs(model: Any) -> Tensor:
    return model(input_ids=TOKEN_IDS).logits.log_softmax(-1)


def edit(folder: Path, **settings: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen2", LINEAR),
        ("qwen2", LINEAR | {"use_rslora": True}),
        ("qwen2", LINEAR | {"bias": "all"}),
        ("qwen2", LINEAR | {"bias": "lora_only"}),
        ("qwen2", LINEAR | {"lora_dropout": 0.5}),
        ("qwen2", LINEAR | {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}}),
        ("qwen2", QUERY | {"layers_to_transform": [1]}),
        ("qwen2", {"target_modules": ["q_proj", "embed_tokens"]}),
        *(("qwen2", QUERY | {"init_lora_weights": name}) for name in ("orthogonal", "gaussian")),
        *(("qwen2", QUERY | {"init_lora_weights": name}) for name in ("eva", "pissa", "olora")),
        ("tied", LINEAR),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        ("phi3", LINEAR),
    ],
    ids=str,
)
def test_the_pushed_weights_give_pefts_logprobs(
    bases: dict[str, Path], tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    expected = make(bases[family], tmp_path / "adapter", **settings)
    policy = load_policy(open_trained(str(tmp_path / "adapter")))
    plain = AutoModelForCausalLM.from_pretrained(bases[family], dtype=torch.float32).eval()
    assert (logprobs(plain) - expected).abs().max() > 0.05, "an adapter that changes nothing"
    lacking, unknown = plain.load_state_dict(dict(policy.engine_weights()), strict=False)
    assert unknown == []
    assert set(lacking) <= {"lm_head.weight"}, "tied weights are pushed once"
    for model in (plain, policy.model):
        assert (logprobs(model) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("qwen2", QUERY | {"lora_bias": True}, "lora_bias is True, which cannot be applied as a"),
        (
            "qwen2",
            QUERY | {"use_dora": True},
            "use_dora is True, .*; merge it with peft's merge_an",
        ),
        ("qwen2", QUERY | {"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ("qwen2", QUERY | {"trainable_token_indices": [3]}, r"trainable_token_indices is \[3\]"),
        ("llama", QUERY | {"layer_replication": [[0, 2], [1, 2]]}, "layer_replication .* without"),
        ("qwen2", QUERY | {"init_lora_weights": "pissa_niter_4"}, "the base that it was trained"),
        ("qwen2", {"target_modules": ["lm_head"]}, "adapts 'lm_head', the output head"),
        ("tied", {"target_modules": ["embed_tokens"]}, "also the head of this base; peft cannot"),
        ("moe", LINEAR, "target_parameters is"),
        ("moe", QUERY | {"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters is"),
    ],
    ids=str,
)
def test_what_a_delta_cannot_hold_is_refused_before_its_base_is_loaded(
    bases: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    settings: dict[str, Any],
    message: str,
) -> None:
    make(bases[family], tmp_path, **settings)
    monkeypatch.setattr("ceeh.modules.policy.load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=message) as refused:
        open_trained(str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "only LoRA adapters are supported, got peft_type IA3"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is empty"),
        ({"base_model_name_or_path": "/gone"}, "cannot find its base .*no folder '/gone'"),
        ({"from_the_future": {"a": 1}}, r"from_the_future is \['a'\], which cannot be applied"),
        ({"alora_invocation_tokens": [1, 2]}, r"is \[1, 2\], .* peft cannot merge it"),
        ({"revision": "v2"}, "revision is v2, but only the newest revision"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is corda"),
    ],
)
def test_settings_that_are_not_known_to_be_applied_are_refused(
    bases: dict[str, Path], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    make(bases["qwen2"], tmp_path, **QUERY)
    edit(tmp_path, **settings)
    with pytest.raises(ConfigError, match=message):
        open_trained(str(tmp_path))


def test_a_quantized_base_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    make(bases["qwen2"], tmp_path / "adapter", **QUERY)
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((bases["qwen2"] / "config.json").read_text())
    quantized = config | {"quantization_config": {"quant_method": "bitsandbytes"}}
    (base / "config.json").write_text(json.dumps(quantized))
    edit(tmp_path / "adapter", base_model_name_or_path=str(base))
    with pytest.raises(ConfigError, match="is quantized, and a delta cannot be added"):
        open_trained(str(tmp_path / "adapter"))


LAYER = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(f"{LAYER}.lora_A.weight"), "only half of the delta of 'model.layers.1"),
        (
            lambda w: w.update({f"{LAYER}.lora_magnitude_vector": torch.ones(3)}),
            "holds '.*lora_magnitude_vector', which is neither a delta nor a weight",
        ),
        (
            lambda w: w.update({n.replace("1", "7"): v.clone() for n, v in list(w.items())}),
            "adapts 'model.layers.7.self_attn.q_proj', which its base does not have",
        ),
        (
            lambda w: [w.pop(f"{LAYER}.lora_{half}.weight") for half in "AB"],
            "lacks the deltas of 1 matrices .* e.g. 'model.layers.1.self_attn.q_proj'",
        ),
    ],
    ids=["half", "magnitude", "other base", "incomplete"],
)
def test_a_file_of_another_base_or_an_incomplete_one_is_refused(
    bases: dict[str, Path], tmp_path: Path, change: Callable[[dict], Any], message: str
) -> None:
    make(bases["qwen2"], tmp_path, **QUERY)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=message):
        load_policy(open_trained(str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", b"[]", "is not an adapter configuration"),
        ("adapter_config.json", b"\xff", "is not an adapter configuration"),
        ("adapter_model.safetensors", b"", "cannot be read"),
        ("adapter_model.safetensors", None, "no adapter_model.safetensors; a pickle"),
    ],
)
def test_damaged_files_are_refused(
    bases: dict[str, Path], tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    make(bases["qwen2"], tmp_path, **QUERY)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        open_trained(str(tmp_path))
