"""The policy: log-probs and entropy against Hugging Face's logits, and the weights for the engine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ceeh.config.settings import LoRA, Model
from ceeh.errors import ConfigError
from ceeh.modules.policy import Policy, refuse_transformed_logits

IDS = torch.tensor([[5, 6, 7, 8, 9, 0], [4, 3, 2, 1, 5, 6]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()
LORA = Model(lora=LoRA(rank=2, alpha=4.0))


def make(model_dir: Path, settings: Model, *, keep_reference: bool = True) -> Policy:
    torch.manual_seed(0)
    return Policy(settings, str(model_dir), temperature=0.7, keep_reference=keep_reference)


def reference(model_dir: Path, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Full logits in float64, one position at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    logits = model(input_ids=IDS).logits.detach() / temperature
    logprobs, entropy = torch.zeros(2, IDS.shape[1]), torch.zeros(2, IDS.shape[1])
    for row, position in MASK.nonzero().tolist():
        distribution = logits[row, position - 1].log_softmax(-1)
        logprobs[row, position] = distribution[IDS[row, position]]
        entropy[row, position] = -(distribution.exp() * distribution).sum()
    return logprobs, entropy


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


def test_only_the_adapter_is_trained_with_lora(tiny_model_dir: Path) -> None:
    policy = make(tiny_model_dir, LORA)
    trained = [name for name, value in policy.named_parameters() if value.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)


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


def test_a_saved_policy_loads_in_transformers(tiny_model_dir: Path, tmp_path: Path) -> None:
    from ceeh.starter.model import build_tokenizer

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


def test_a_model_that_rescales_its_logits_is_refused(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="rescales its logits \\(final_logit_softcapping\\)"):
        refuse_transformed_logits(model)


def test_a_saved_policy_keeps_the_dtype_of_the_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    policy = make(tmp_path / "half", Model())
    assert all(weight.dtype == torch.float32 for weight in policy.trainable)
    policy.save(tmp_path / "saved", tokenizer)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == torch.bfloat16


def test_an_adapter_on_the_head_is_refused(untied_model_dir: Path) -> None:
    settings = Model(lora=LoRA(rank=2, target_modules=["lm_head", "q_proj"]))
    with pytest.raises(ConfigError, match=r"model\.lora\.target_modules must not name the output"):
        make(untied_model_dir, settings)
