"""Each model family as a tiny random model: trained, exported, and compared with transformers and vLLM.

python -m tests.families [NAME ...] prints a row of the table in docs/models.md for each, and writes it there.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as T
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ceeh.config.settings import load
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.errors import ConfigError, RunError
from ceeh.export.run import export
from ceeh.fit import fit
from ceeh.modules.restore import load_policy
from ceeh.pretrained.locate import open_trained
from ceeh.starter.model import EOS_ID, PAD_ID, build_tokenizer

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
KINDS = {"full": (), "LoRA": ("model.lora.rank=4",)}
TOKENS = {"eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "bos_token_id": None}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
WINDOW = {"sliding_window": 16}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4}
SHARED_EXPERTS = {**EXPERTS, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
LATENT = {
    "num_key_value_heads": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "topk_method": "noaux_tc",
}
GRANITE = {"attention_multiplier": 0.2, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}


def rope(kind: str, **more: float) -> dict[str, Any]:
    scaled = {"factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e4}
    return {"rope_parameters": {"rope_type": kind, **scaled, **more}}


def of(config: Callable[..., PreTrainedConfig], *without: str, **more: Any) -> PreTrainedConfig:
    """`config` in the common sizes, without the names that it does not know."""
    sizes = {name: size for name, size in SIZES.items() if name not in without}
    return config(**sizes | TOKENS | more)


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "apertus": lambda: of(T.ApertusConfig),
    "arcee": lambda: of(T.ArceeConfig),
    "cohere": lambda: of(T.CohereConfig, "head_dim"),
    "cohere2": lambda: of(T.Cohere2Config, **MIXED),
    "deepseek_v3": lambda: of(T.DeepseekV3Config, "head_dim", **LATENT),
    "ernie4_5": lambda: of(T.Ernie4_5Config),
    "exaone4": lambda: of(T.Exaone4Config, **WINDOW, sliding_window_pattern=2),
    "falcon": lambda: of(T.FalconConfig, "head_dim", "num_key_value_heads", "intermediate_size"),
    "gemma": lambda: of(T.GemmaConfig),
    "gemma2": lambda: of(T.Gemma2Config, **WINDOW, query_pre_attn_scalar=32),
    "gemma3": lambda: of(T.Gemma3TextConfig, **MIXED, query_pre_attn_scalar=32),
    "gemma4": lambda: of(
        T.Gemma4TextConfig, **MIXED, vocab_size_per_layer_input=64, hidden_size_per_layer_input=16
    ),
    "glm": lambda: of(T.GlmConfig),
    "glm4": lambda: of(T.Glm4Config),
    "gpt2": lambda: of(T.GPT2Config, n_positions=512, n_embd=64, n_layer=2, n_head=2),
    "gpt_neox": lambda: of(T.GPTNeoXConfig, "head_dim", "num_key_value_heads"),
    "gpt_oss": lambda: of(T.GptOssConfig, **EXPERTS, **MIXED),
    "granite": lambda: of(T.GraniteConfig, "head_dim", **GRANITE, logits_scaling=8.0),
    "granitemoe": lambda: of(
        T.GraniteMoeConfig, "head_dim", **EXPERTS, **GRANITE, logits_scaling=6.0
    ),
    "hunyuan": lambda: of(T.HunYuanDenseV1Config),
    "lfm2": lambda: of(
        T.Lfm2Config, "head_dim", layer_types=["conv", "full_attention"], full_attn_idxs=[1]
    ),
    "llama": lambda: of(T.LlamaConfig),
    "llama with biases": lambda: of(T.LlamaConfig, attention_bias=True, mlp_bias=True),
    "llama with llama3 positions": lambda: of(
        T.LlamaConfig, **rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0)
    ),
    "llama with yarn positions": lambda: of(T.LlamaConfig, **rope("yarn")),
    "mistral": lambda: of(T.MistralConfig, **WINDOW),
    "mixtral": lambda: of(T.MixtralConfig, **EXPERTS),
    "olmo": lambda: of(T.OlmoConfig, "head_dim"),
    "olmo2": lambda: of(T.Olmo2Config, "head_dim"),
    "olmo3": lambda: of(T.Olmo3Config, "head_dim", **MIXED),
    "opt": lambda: of(T.OPTConfig, ffn_dim=128, word_embed_proj_dim=64),
    "phi": lambda: of(T.PhiConfig, "head_dim"),
    "phi3": lambda: of(T.Phi3Config, "head_dim"),
    "qwen2": lambda: of(T.Qwen2Config, "head_dim"),
    "qwen2, tied": lambda: of(T.Qwen2Config, "head_dim", tie_word_embeddings=True),
    "qwen2_moe": lambda: of(T.Qwen2MoeConfig, "head_dim", **SHARED_EXPERTS),
    "qwen3": lambda: of(T.Qwen3Config, tie_word_embeddings=False),
    "qwen3, tied": lambda: of(T.Qwen3Config, tie_word_embeddings=True),
    "qwen3_moe": lambda: of(
        T.Qwen3MoeConfig, **EXPERTS, moe_intermediate_size=64, decoder_sparse_step=1
    ),
    "qwen3_5": lambda: of(T.Qwen3_5TextConfig, **LINEAR),
    "qwen3_next": lambda: of(T.Qwen3NextConfig, **LINEAR, **SHARED_EXPERTS),
    "seed_oss": lambda: of(T.SeedOssConfig),
    "smollm3": lambda: of(T.SmolLM3Config, "head_dim", no_rope_layers=[1, 0]),
    "stablelm": lambda: of(T.StableLmConfig, "head_dim"),
    "starcoder2": lambda: of(T.Starcoder2Config, "head_dim"),
}


def save_model(name: str, folder: Path) -> str:
    """Random weights whose distributions are far from uniform; returns the class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(FAMILIES[name](), attn_implementation="eager")
        with torch.no_grad():
            for weight in model.parameters():
                noise = torch.randn_like(weight)
                weight.copy_(0.12 * noise if weight.dim() > 1 else weight + 0.1 * noise)
    model.float().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return type(model).__name__


def train(model: Path, output: Path, *overrides: str) -> Path:
    """Two rollout steps that change the weights a lot; the run folder."""
    settings = (
        f"model.path={model}",
        f"output={output}",
        "tracking.mlflow=false",
        "hardware.accelerator=cpu",
        "engine.init_args={kv_cache_gib: 0.25, options: {max_num_seqs: 64}}",
        "rollouts.steps=2",
        "rollouts.prompts_per_step=4",
        "rollouts.completions_per_prompt=4",
        "rollouts.max_response_tokens=32",
        "optimizer.prompts_per_minibatch=4",
        "optimizer.lr=0.01",
        "evaluation.questions=4",
        "evaluation.samples=1",
        "evaluation.split_samples=1",
        "evaluation.bootstrap_draws=100",
        "prompts.train.init_args.questions=32",
        "prompts.held_out.init_args.questions=8",
    )
    return fit(load([ROOT / "configs" / "ceeh.yaml"], [*settings, *overrides]))


@torch.no_grad()
def exported_difference(run: Path, folder: Path) -> float:
    """Nats between trainer, transformers and vLLM on the exported model."""
    export(str(run), folder, dtype=torch.float32)
    policy = load_policy(open_trained(str(max(run.glob("checkpoints/*.ckpt")))))
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with VLLMEngine(str(folder), max_model_len=64, accelerator="cpu", kv_cache_gib=0.25) as engine:
        prompt, completion = engine.canary(temperature=1.0)
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    mask = torch.arange(ids.shape[1])[None] >= len(prompt)
    logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
    plain = logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
    engine_logprobs = torch.tensor(completion.logprobs)
    others = (engine_logprobs, policy(ids, mask)[0][mask])
    return max(float((plain - other).abs().max()) for other in others)


def largest_difference(name: str, kind: str, folder: Path) -> float:
    """Nats, over the pushes of a run and its export. Raises ConfigError or RunError as the run does."""
    model = folder / "model"
    save_model(name, model)
    run = train(model, folder / "runs", *KINDS[kind])
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    pushed = [line.get("engine/canary_difference_max") for line in lines]
    return max(exported_difference(run, folder / "out"), *(value for value in pushed if value))


def row(name: str) -> str:
    """A line of the table."""
    cells = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                cells.append(f"{largest_difference(name, kind, Path(folder)):.1e}")
            except (ConfigError, RunError) as error:
                reason = str(error).removeprefix("model.path: ").partition(";")[0]
                reason = reason.replace(f"{folder}/", "").replace("|", "/")
                cells.append(
                    f"{'refused' if isinstance(error, ConfigError) else 'stops'}: {reason}"
                )
    if cells[0] == cells[1] and ":" in cells[0]:
        cells[1] = "the same"
    with tempfile.TemporaryDirectory() as folder:
        return f"| {name} | {save_model(name, Path(folder))} | {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.families", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAMILIES))
    for name in parser.parse_args(arguments).names or FAMILIES:
        line = row(name)
        print(line, flush=True)
        text = PAGE.read_text()
        old = re.compile(rf"^\| {re.escape(name)} \|.*$", re.MULTILINE)
        if not old.search(text):
            raise SystemExit(f"{PAGE} has no row for {name}")
        PAGE.write_text(old.sub(lambda _, line=line: line, text))


if __name__ == "__main__":
    main(sys.argv[1:])
