"""The policy: log-probs and entropy against Hugging Face's logits, and the weights for the engine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as T
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ceeh.config.settings import LoRA, Model
from ceeh.errors import ConfigError
from ceeh.modules.policy import Policy
from ceeh.starter.model import build_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9, 0], [4, 3, 2, 1, 5, 6]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()
LORA = Model(lora=LoRA(rank=2, alpha=4.0))


def make(model_dir: Path, settings: Model, *, keep_reference: bool = True) -> Policy:
    torch.manual_seed(0)
    return Policy(settings, str(model_dir), temperature=0.7, keep_reference=keep_reference)


def reference(
    model_dir: Path, temperature: float, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Full logits, by default in float64, one position at a time."""
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=dtype, attn_implementation="eager"
    )
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


FAMILIES = {
    "Gemma 2": (
        T.Gemma2Config,
        {
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 0.1,  # left out by sdpa
            "query_pre_attn_scalar": 16,
        },
    ),
    "Cohere": (T.CohereConfig, {"logit_scale": 0.5}),
    "Granite": (T.GraniteConfig, {"logits_scaling": 8.0}),
    "Phi": (T.PhiConfig, {}),
}


def tiny(config: type, folder: Path, **settings: object) -> Path:
    """A random model whose every weight, biases included, is away from 0."""
    base = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**base | settings))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_caps_scales_and_head_biases_equal_the_models_own_logits(
    family: str, tmp_path: Path
) -> None:
    config, settings = FAMILIES[family]
    folder = tiny(config, tmp_path, **settings)
    policy = make(folder, Model())
    torch.testing.assert_close(policy(IDS, MASK), reference(folder, 0.7), rtol=1e-4, atol=1e-5)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    logprobs = (model(input_ids=IDS).logits[:, :-1] / 0.7).log_softmax(-1)
    (logprobs.gather(-1, IDS[:, 1:, None])[..., 0] * MASK[:, 1:]).sum().backward()
    policy.loss(IDS, MASK, lambda found, entropy, _: found.sum()).backward()
    for (name, value), plain in zip(
        policy.causal_lm.named_parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(value.grad, plain.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_a_model_whose_logits_the_head_does_not_reproduce_is_refused(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = T.Qwen3ForCausalLM.forward

    def sharper(*arguments: object, **named: object):
        output = forward(*arguments, **named)
        output.logits = output.logits * 1.01
        return output

    monkeypatch.setattr(T.Qwen3ForCausalLM, "forward", sharper)
    with pytest.raises(
        ConfigError, match=r"logits of Qwen3ForCausalLM are not cap tanh.*differ by"
    ):
        make(tiny_model_dir, Model())


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


def test_cudnns_attention_is_off(tiny_model_dir: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    Policy(Model(), str(tiny_model_dir), temperature=1.0, keep_reference=False)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
