"""A saved policy: loads in transformers, in the dtype of the model that it started from."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ceeh.config.settings import Model
from ceeh.starter.model import build_tokenizer
from tests.modules.small_policies import LORA, make


def test_a_saved_policy_loads_in_transformers(tiny_model_dir: Path, tmp_path: Path) -> None:
    policy = make(tiny_model_dir, LORA)
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter.normal_(std=0.1)
    policy.save(tmp_path / "model", build_tokenizer())
    original = AutoConfig.from_pretrained(tiny_model_dir)
    saved = AutoConfig.from_pretrained(tmp_path / "model")
    assert (saved.dtype, saved.use_cache) == (original.dtype, original.use_cache)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    pushed = dict(policy.engine_weights())
    for name, value in loaded.named_parameters():
        torch.testing.assert_close(value, pushed[name])


def test_a_saved_policy_keeps_the_dtype_of_the_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    policy = make(tmp_path / "half", Model())
    assert all(weight.dtype == torch.float32 for weight in policy.trainable)
    policy.save(tmp_path / "saved", tokenizer)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == torch.bfloat16
