"""A policy on disk: a Hugging Face folder with whole weights, or a PEFT folder with the adapter alone."""

import copy
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ceeh.modules.merged_weights import merged, saved_buffers
from ceeh.pretrained.file_format import as_in_files
from ceeh.pretrained.generation import generation_settings
from ceeh.pretrained.shards import write_shards


def save_merged(
    causal_lm: PreTrainedModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype,
    temperature: float,
    max_shard_bytes: int,
) -> int:
    """Writes a Hugging Face folder, an adapter merged, in `dtype`. Returns the bytes of the weights.

    `temperature` is that of the rollouts, for `generation_settings`. Raises ConfigError for NaN or infinity.
    """
    weights = ((name, value.to(dtype)) for name, value in merged(causal_lm))
    stored = as_in_files(causal_lm, chain(weights, saved_buffers(causal_lm)))
    try:
        save_settings(causal_lm, folder, tokenizer, dtype=dtype, temperature=temperature)
        return write_shards(folder, stored, max_shard_bytes=max_shard_bytes)
    finally:
        for _ in stored:  # after an error: the other ranks must not wait for this one
            pass


def save_settings(
    causal_lm: PreTrainedModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype,
    temperature: float,
) -> None:
    """Writes all but the weights: configuration, generation settings and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    # Training is in fp32; the folder's config names the dtype of its files.
    config = copy.deepcopy(causal_lm.config)
    config.dtype = dtype
    vars(config).pop("quantization_config", None)  # the files hold whole weights
    config.save_pretrained(folder)
    generation = generation_settings(
        causal_lm.generation_config, tokenizer, temperature=temperature
    )
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_adapter(
    model: Any, folder: Path, tokenizer: PreTrainedTokenizerBase, *, dtype: torch.dtype | None
) -> int:
    """Writes a PEFT folder of the PEFT model's adapter, as trained or in `dtype`. Returns its bytes."""
    weights = {
        name: value.to(dtype or value.dtype)
        for name, value in model.state_dict().items()
        if ".lora_" in name
    }
    # With save_embedding_layers peft would look for the base on the hub; LoRA changes no embedding.
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
    tokenizer.save_pretrained(folder)
    return sum(value.nbytes for value in weights.values())
