"""python -m benchmarks.agreement: engine against trainer on models of random weights.

For each shape, with the weights read from disk and again after a push: the canary's mean |difference| in
nats of the engine's log-probs from the trainer's in fp32 and in bf16, and what bf16 alone does. An engine far
beyond that computes something else than the trainer. What it is, the other columns narrow down:

    signed   the mean with its sign. Near the mean: the normalization is wrong; near 0: the hidden states are
    first    the first token's difference, which the prefill alone computes
    weights  matrices of the engine that are not the trainer's in the engine's dtype
    rotary   largest error of the engine's table of cosines and sines
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from ceeh.config.settings import Model
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.modules.policy import Policy
from ceeh.starter.model import MODEL_DIR

SHAPES = {  # hidden size, MLP size, heads, key-value heads, layers
    "tiny": (64, 192, 2, 2, 2),
    "grouped": (384, 768, 6, 2, 2),
    "qwen2-1.5b": (1536, 8960, 12, 2, 28),
    "qwen2-7b": (3584, 18944, 28, 4, 28),
}
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Matrices that vLLM keeps as one."""


def random_config(shape: str, *, layers: int | None = None, vocabulary: int = 151_936) -> Any:
    hidden, mlp, heads, kv_heads, own_layers = SHAPES[shape]
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers or own_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        dtype=torch.bfloat16,
    )


def write_model(folder: Path, config: Any) -> None:
    """Random bf16 weights, made on the GPU if there is one, and the starter's tokenizer."""
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(MODEL_DIR)).save_pretrained(folder)


class Agreement(NamedTuple):
    """Nats on the canary's tokens, the number of wrong matrices, the error of the rotary table."""

    engine_fp32: float
    engine_bf16: float
    bf16_fp32: float
    signed: float
    first: float
    wrong_weights: int
    rotary: float


@torch.no_grad()
def agreement(policy: Policy, engine: VLLMEngine, device: str) -> Agreement:
    prompt, completion = engine.canary(temperature=1.0)
    token_ids = torch.tensor([prompt + completion.token_ids], device=device)
    mask = torch.arange(token_ids.shape[1], device=device)[None] >= len(prompt)
    sampled = torch.tensor(completion.logprobs)
    full = policy(token_ids, mask)[0][mask].float().cpu()
    with torch.autocast(device, torch.bfloat16):
        half = policy(token_ids, mask)[0][mask].float().cpu()
    weights = dict(policy.engine_weights())
    config = policy.causal_lm.config
    wrong, rotary = engine._live().apply_model(lambda model: faults(model, weights, config))[0]
    return Agreement(
        engine_fp32=float((sampled - full).abs().mean()),
        engine_bf16=float((sampled - half).abs().mean()),
        bf16_fp32=float((half - full).abs().mean()),
        signed=float((sampled - half).mean()),
        first=float((sampled - half)[0].abs()),
        wrong_weights=wrong,
        rotary=rotary,
    )


def faults(model: nn.Module, weights: dict[str, Tensor], config: Any) -> tuple[int, float]:
    """Matrices of vLLM's `model` that differ from `weights`, and the error of its rotary table."""
    wrong, rotary = 0, 0.0
    for name, own in model.named_parameters():
        if not own.numel():  # packed elsewhere, on the CPU
            continue
        for fused, parts in FUSED.items():
            if fused in name:
                expected = torch.cat([weights[name.replace(fused, part)] for part in parts])
                break
        else:
            expected = weights[name]
        wrong += not torch.equal(own[: len(expected)], expected.to(own))
    for name, table in model.named_buffers():
        if name.endswith("cos_sin_cache"):
            size = table.shape[1]
            steps = torch.arange(0, size, 2, device=table.device).double() / size
            angles = torch.arange(len(table), device=table.device).double()[:, None] / (
                config.rope_parameters["rope_theta"] ** steps
            )
            exact = torch.cat([angles.cos(), angles.sin()], 1)
            rotary = max(rotary, float((table[:64] - exact[:64]).abs().max()))
    return wrong, rotary


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["tiny", "grouped"])
    parser.add_argument("--layers", type=int, help="the shape's own if not given")
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--graphs", action="store_true", help="compile and capture CUDA graphs")
    parser.add_argument("--sleep", action="store_true", help="build the engine with sleep mode")
    parser.add_argument(
        "--options", type=json.loads, default={}, help="further ones of the engine, as JSON"
    )
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    columns = "".join(f"{name:>14}" for name in Agreement._fields)
    print(f"{'shape':12}{'dtype':10}{'from':6}{columns}")
    for shape in given.shapes:
        with tempfile.TemporaryDirectory() as folder:
            config = random_config(shape, layers=given.layers, vocabulary=given.vocabulary)
            write_model(Path(folder), config)
            policy = Policy(Model(), folder, temperature=1.0, keep_reference=False)
            policy = policy.to(device).eval()
            for dtype in given.dtypes:
                options = {"enforce_eager": not given.graphs, "max_num_seqs": 16} | given.options
                with VLLMEngine(
                    folder, 256, dtype=dtype, kv_cache_gib=0.5, sleep=given.sleep, options=options
                ) as engine:
                    for weights in ("disk", "push"):
                        if weights == "push":
                            engine.load_weights(policy.engine_weights(), policy_version=0)
                        found = agreement(policy, engine, device)
                        cells = "".join(f"{value:14.2e}" for value in found)
                        print(f"{shape:12}{dtype:10}{weights:6}{cells}", flush=True)


if __name__ == "__main__":
    main()
