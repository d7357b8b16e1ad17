"""Models and batches to measure on: random weights, ragged lengths, no data set and no network."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from ceeh.starter.model import build_tokenizer
from ceeh.types import (
    Completion,
    Finish,
    GradingOutcome,
    Prompt,
    RolloutGroup,
    ScoredGroup,
    Verdict,
)

SIZES = {
    # name: width, layers, heads, key-value heads, inner width, vocabulary
    "tiny": (128, 2, 4, 4, 384, 4096),
    "grouped": (384, 2, 6, 2, 768, 2048),
    # The head is a quarter of the weights, as at half a billion.
    "balanced": (128, 4, 4, 4, 384, 2048),
    "small": (256, 4, 4, 2, 768, 16384),
    "medium": (512, 8, 8, 4, 1536, 32768),
    "wide": (1536, 4, 12, 2, 8960, 32768),
    "qwen2-0.5b": (896, 24, 14, 2, 4864, 151936),
    "qwen2-1.5b": (1536, 28, 12, 2, 8960, 151936),
    "qwen2-7b": (3584, 28, 28, 4, 18944, 152064),
}


def random_config(
    size: str,
    *,
    layers: int | None = None,
    vocabulary: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Qwen2Config:
    """A Qwen2; `layers` and `vocabulary` replace the size's own."""
    width, own_layers, heads, kv_heads, inner, own_vocabulary = SIZES[size]
    return Qwen2Config(
        vocab_size=vocabulary or own_vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers or own_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        dtype=dtype,
    )


def random_model(
    folder: Path,
    size: str,
    *,
    layers: int | None = None,
    vocabulary: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """`random_config` with random weights in `folder`, and the starter's tokenizer.

    The weights are made on the GPU if there is one: 7B on a CPU take minutes.
    """
    config = random_config(size, layers=layers, vocabulary=vocabulary, dtype=dtype)
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(), torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.manual_seed(0)
        model: Any = Qwen2ForCausalLM(config)
        model = model.to(dtype)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()  # other processes share the GPU
    build_tokenizer().save_pretrained(folder)
    return folder


def log_normal_lengths(
    rows: int, *, median: float, sigma: float, shortest: int, longest: int, seed: int = 0
) -> list[int]:
    """Response lengths in tokens as reasoning models have them: many short ones, a long tail."""
    generator = random.Random(seed)
    drawn = (generator.lognormvariate(math.log(median), sigma) for _ in range(rows))
    return [min(longest, max(shortest, round(length))) for length in drawn]


def scored_groups(
    lengths: Sequence[int], *, group_size: int, prompt_tokens: int, vocabulary: int
) -> list[ScoredGroup]:
    """Groups of random tokens, `group_size` responses of the given lengths to each prompt.

    Every second response is correct, so that every group has an advantage. The same on each call.
    """
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, vocabulary, (count,), generator=generator).tolist())

    groups = []
    for index, start in enumerate(range(0, len(lengths), group_size)):
        prompt = Prompt(
            uid=f"question-{index}", text="?", answer="0", token_ids=tokens(prompt_tokens)
        )
        completions = tuple(
            Completion(
                text="",
                token_ids=tokens(length),
                logprobs=(-math.log(vocabulary),) * length,
                finish=Finish.STOP,
            )
            for length in lengths[start : start + group_size]
        )
        verdicts = tuple(
            Verdict(score=float(row % 2 == 0), outcome=GradingOutcome.OK)
            for row in range(len(completions))
        )
        group = RolloutGroup(prompt=prompt, completions=completions, policy_version=0)
        groups.append(ScoredGroup(group=group, verdicts=verdicts))
    return groups
