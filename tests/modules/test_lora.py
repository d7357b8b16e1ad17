"""LoRA: what is trained, where its dropout acts, and targets that are refused."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ceeh.config.settings import LoRA, Model
from ceeh.errors import ConfigError
from tests.modules.small_policies import IDS, LORA, MASK, make


def test_only_the_adapter_is_trained_with_lora(tiny_model_dir: Path) -> None:
    policy = make(tiny_model_dir, LORA)
    trained = [name for name, value in policy.named_parameters() if value.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)


def test_the_adapters_dropout_acts_in_the_loss_and_nowhere_else(tiny_model_dir: Path) -> None:
    policy = make(tiny_model_dir, Model(lora=LoRA(rank=2, alpha=64.0, dropout=0.5))).train()
    with torch.no_grad():
        for weight in policy.trainable:
            weight.normal_(std=0.1)
    seen: list[torch.Tensor] = []
    for _ in range(2):
        policy.loss(IDS, MASK, lambda found, _, __: seen.append(found) or found.sum())
    assert not torch.allclose(seen[0], seen[1])
    assert policy.training
    torch.testing.assert_close(policy(IDS, MASK), policy(IDS, MASK), rtol=0, atol=0)
    evaluated = policy(IDS, MASK)[0]
    torch.testing.assert_close(policy.eval()(IDS, MASK)[0], evaluated, rtol=0, atol=0)


def test_an_adapter_on_the_head_is_refused(untied_model_dir: Path) -> None:
    settings = Model(lora=LoRA(rank=2, target_modules=["lm_head", "q_proj"]))
    with pytest.raises(ConfigError, match=r"model\.lora\.target_modules must not name the output"):
        make(untied_model_dir, settings)


def test_an_adapter_on_an_embedding_is_refused_where_the_head_is_tied_to_it(
    tiny_model_dir: Path, untied_model_dir: Path
) -> None:
    settings = Model(lora=LoRA(rank=2, target_modules=["embed_tokens", "q_proj"]))
    with pytest.raises(ConfigError, match=r"model\.lora\.target_modules.*embedding.*tie_word_emb"):
        make(tiny_model_dir, settings)
    policy = make(untied_model_dir, settings)
    with torch.no_grad():
        for weight in policy.trainable:
            weight.normal_(std=0.1)
    plain = AutoModelForCausalLM.from_pretrained(untied_model_dir, dtype=torch.float32)
    plain.load_state_dict(dict(policy.engine_weights()))
    logits = plain(input_ids=IDS).logits[:, :-1] / 0.7
    merged = logits.log_softmax(-1).gather(-1, IDS[:, 1:, None])[..., 0]
    torch.testing.assert_close(policy(IDS, MASK)[0][:, 1:], merged * MASK[:, 1:])
