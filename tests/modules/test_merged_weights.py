"""The weights for the engine: the adapter merged, and named as in the model's files."""

from pathlib import Path

import pytest
import torch
import transformers as T
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ceeh.config.settings import LoRA, Model
from ceeh.starter.model import build_tokenizer
from tests.modules.small_policies import IDS, LORA, MASK, make, reference, tiny


def test_lora_pushes_merged_weights_and_keeps_the_adapter(tiny_model_dir: Path) -> None:
    policy = make(tiny_model_dir, LORA)
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter.normal_(std=0.1)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    pushed = dict(policy.engine_weights())
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    assert pushed.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(pushed, strict=False)
    logits = plain(input_ids=IDS).logits[:, :-1] / 0.7
    merged = logits.log_softmax(-1).gather(-1, IDS[:, 1:, None])[..., 0]
    torch.testing.assert_close(policy(IDS, MASK)[0][:, 1:], merged * MASK[:, 1:])
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} drifted"


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        (T.Qwen3MoeConfig, ["all-linear"]),
        (T.Qwen3MoeConfig, ["q_proj", "gate_proj", "up_proj", "down_proj"]),
        (T.MixtralConfig, ["all-linear"]),
        (T.MixtralConfig, ["q_proj", "w1", "w2", "w3"]),
        (T.GraniteMoeConfig, ["all-linear"]),
    ],
)
def test_experts_are_pushed_as_their_files_hold_them(
    config: type, targets: list[str], tmp_path: Path
) -> None:
    experts = {"num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 16}
    folder = tiny(config, tmp_path, **experts, num_experts_per_tok=2)
    policy = make(folder, Model(lora=LoRA(rank=4, target_modules=targets)))
    with torch.no_grad():
        for weight in policy.trainable:
            weight.normal_(std=0.1)
    adapted = any("experts" in name for name, _ in policy.named_parameters() if ".lora_" in name)
    assert adapted == (config is not T.GraniteMoeConfig)  # peft does not know its experts
    pushed = dict(policy.engine_weights())
    assert pushed.keys() == load_file(folder / "model.safetensors").keys()
    policy.save(tmp_path / "merged", build_tokenizer(), dtype=torch.float32)
    expected = reference(tmp_path / "merged", 0.7, torch.float32)  # experts have no float64 kernel
    torch.testing.assert_close(policy(IDS, MASK), expected, rtol=1e-4, atol=1e-5)
