"""The policy: log-probs and entropy against Hugging Face's logits, checkpointing and dropout."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as T

from ceeh.config.settings import Model
from ceeh.modules.policy import Policy
from tests.modules.small_policies import IDS, LORA, MASK, make, reference, tiny


@pytest.mark.parametrize("settings", [Model(), LORA], ids=["full", "lora"])
def test_logprobs_and_entropy_equal_full_logits(tiny_model_dir: Path, settings: Model) -> None:
    policy = make(tiny_model_dir, replace(settings, head_chunk_tokens=3))
    logprobs, entropy = policy(IDS, MASK)
    expected_logprobs, expected_entropy = reference(tiny_model_dir, 0.7)
    torch.testing.assert_close(logprobs, expected_logprobs)
    torch.testing.assert_close(entropy, expected_entropy)


@pytest.mark.parametrize("settings", [Model(), LORA], ids=["full", "lora"])
def test_reference_stays_at_the_starting_policy(tiny_model_dir: Path, settings: Model) -> None:
    policy = make(tiny_model_dir, settings)
    start = policy.reference_logprobs(IDS, MASK)
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter.add_(0.1)
    assert not torch.allclose(policy(IDS, MASK)[0], start)
    torch.testing.assert_close(policy.reference_logprobs(IDS, MASK), start)


@pytest.mark.parametrize("settings", [Model(), LORA], ids=["full", "lora"])
def test_checkpointing_gives_the_same_gradients(tiny_model_dir: Path, settings: Model) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = make(tiny_model_dir, replace(settings, gradient_checkpointing=checkpointing))
        policy.loss(IDS, MASK, lambda logprobs, entropy, _: logprobs.sum()).backward()
        gradients.append([p.grad for p in policy.trainable if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "n_inner": 48}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("config", [T.GPT2Config, T.OPTConfig, T.FalconConfig])
def test_the_base_models_own_dropout_does_not_act_in_training(
    config: type, checkpointing: bool, tmp_path: Path
) -> None:
    dropout = {
        "dropout": 0.5,
        "attention_dropout": 0.5,
        "hidden_dropout": 0.5,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.5),
    }
    folder = tiny(config, tmp_path, **GPT2, **OPT, **dropout)
    policy = make(folder, Model(gradient_checkpointing=checkpointing)).train()
    seen, expected = [], policy(IDS, MASK)[0][MASK]
    policy.loss(IDS, MASK, lambda found, _, __: seen.append(found) or found.sum()).backward()
    torch.testing.assert_close(seen[0], expected)
    assert all(weight.grad is not None for weight in policy.trainable)


def test_checkpointing_still_acts_in_training(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make(tiny_model_dir, Model(gradient_checkpointing=True))
    runs = []
    for layer in policy.causal_lm.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(None))
    policy.loss(IDS, MASK, lambda logprobs, entropy, _: logprobs.sum()).backward()
    assert len(runs) == 4  # two layers, each once forward and once for its gradient


def test_cudnns_attention_is_off(tiny_model_dir: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    Policy(Model(), str(tiny_model_dir), temperature=1.0, keep_reference=False)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
