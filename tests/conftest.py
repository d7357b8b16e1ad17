"""Fixtures of several folders: tiny random models with the starter's tokenizer."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from ceeh.starter.model import build_model, build_tokenizer


def save_tiny_model(folder: Path, *, tied: bool) -> None:
    """A Qwen3 of about 40 thousand parameters whose random logits are far from uniform."""
    tokenizer = build_tokenizer()
    config = build_model(tokenizer, width=32, layers=2, heads=2).config
    config.tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
        for weight in model.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.15)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` writes it; embeddings tied, as in the starter."""
    folder = tmp_path_factory.mktemp("tied")
    save_tiny_model(folder, tied=True)
    return folder


@pytest.fixture(scope="session")
def untied_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own."""
    folder = tmp_path_factory.mktemp("untied")
    save_tiny_model(folder, tied=False)
    return folder
