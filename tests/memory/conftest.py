"""Shapes of the paper's models, and small models of the same build."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging as transformers_logging

QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
R1_DISTILL = {
    "1.5b": {
        "hidden_size": 1536,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151936,
    },
    "7b": {
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    },
}
"""DeepSeek-R1-Distill-Qwen: what its config.json says of shapes."""


@pytest.fixture(scope="session", params=["1.5b", "7b"])
def distilled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, named like the recipes, with nothing but a config.json."""
    folder = tmp_path_factory.mktemp("models") / request.param
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN2 | R1_DISTILL[request.param]))
    return folder


def save_small(folder: Path, kind: type[PreTrainedConfig], **changes: Any) -> Path:
    """A model of 0.5M parameters with the proportions of R1-Distill-Qwen-7B and random weights."""
    dims: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 336,
        "vocab_size": 1000,
        "tie_word_embeddings": False,
    }
    transformers_logging.disable_progress_bar()
    AutoModelForCausalLM.from_config(kind(**dims | changes)).save_pretrained(folder)
    return folder
