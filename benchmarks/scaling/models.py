"""The models of the tables: shapes from their configurations, without weights."""

import tempfile
from functools import cache

import torch
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

from ceeh.config.settings import LoRA, Model
from ceeh.memory.shapes import ModelShapes, read_shapes


def qwen2(
    width: int, layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int = 152_064
) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )


MODELS: dict[str, tuple[PreTrainedConfig, int]] = {
    "1.5B": (qwen2(1536, 28, 12, 2, 8960, vocabulary=151_936), 1),
    "7B": (qwen2(3584, 28, 28, 4, 18_944), 1),
    "32B": (qwen2(5120, 64, 40, 8, 27_648), 2),
    "70B": (
        LlamaConfig(
            vocab_size=128_256,
            hidden_size=8192,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
            intermediate_size=28_672,
            dtype=torch.bfloat16,
        ),
        4,
    ),
}
"""DeepSeek-R1-Distill-Qwen-1.5B, Qwen2.5 of 7B and 32B, Llama 3.1 of 70B, with the GPUs of one engine."""
KINDS = {"LoRA 32": LoRA(rank=32), "full": LoRA()}


@cache
def shapes_of(model: str, kind: str) -> ModelShapes:
    with tempfile.TemporaryDirectory() as folder:
        MODELS[model][0].save_pretrained(folder)
        return read_shapes(Model(lora=KINDS[kind]), folder)
