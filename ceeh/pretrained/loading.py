"""Base models and their tokenizers: a local folder, a hub id, or the starter.

Whatever is in their files, nothing of them is run but a chat template, which jinja keeps in a sandbox,
and, where the user asks for it, a model's own code.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ceeh.errors import ConfigError, first_line
from ceeh.runtime.text import flatten
from ceeh.starter.model import MODEL_DIR

OWN_CODE = (
    "none of it was run; if you trust it, set model.trust_remote_code=true, or --trust-remote-code"
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def resolve_model(path: str) -> str:
    """A local folder, a hub id, or `starter` for the model that ships with ceeh."""
    if path == "starter":
        path = str(MODEL_DIR)
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: '{path}' has no config.json; give a folder written by save_pretrained"
        )
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ConfigError(f"model.path: no folder '{path}'")
    return path


def load_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model whose files, as far as they are here, belong together.

    Raises ConfigError for files that cannot be read, for weights that are none or no safetensors, and
    for a tokenizer that knows more tokens than the model or no end of a sequence.
    """
    check_weight_files(path)
    config = load_config(path, trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # files of a stranger: their readers raise whatever comes
        raise ConfigError(
            f"model.path: no model or tokenizer to be had from '{path}' ({_why(error)}); "
            "give a folder with config.json and tokenizer.json, or a hub id that can be reached"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.path: the tokenizer of '{path}' has no end-of-sequence token; set eos_token in its "
            "tokenizer_config.json"
        )
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ConfigError(
            f"model.path: no model or tokenizer to be had from '{path}' (it has no vocabulary); "
            "give a folder with config.json and tokenizer.json, or a hub id that can be reached"
        )
    largest = max(tokenizer.get_vocab().values(), default=-1)
    vocabulary = config.get_text_config().vocab_size
    if largest >= vocabulary:
        raise ConfigError(
            f"model.path: the tokenizer of '{path}' has tokens up to {largest}, the model's embedding has "
            f"{vocabulary} rows; take the tokenizer that belongs to the model, or "
            "model.resize_token_embeddings"
        )
    return tokenizer


def load_config(path: str, trust_remote_code: bool) -> Any:
    """The model's config.json. Raises ConfigError when there is none that can be read.

    It may name kernels by their hub id, which transformers would fetch and run whatever
    `trust_remote_code` says; here they are that model's own code.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        written, _ = PreTrainedConfig.get_config_dict(path)
    except Exception as error:  # as above
        raise ConfigError(
            f"model.path: no model or tokenizer to be had from '{path}' ({_why(error)}); "
            "give a folder with config.json and tokenizer.json, or a hub id that can be reached"
        ) from error

    for name, value in flatten(written).items():
        if "_implementation" in name and "/" in str(value) and not trust_remote_code:
            raise ConfigError(
                f"model.path: the config.json of '{path}' wants kernels from elsewhere ({name}: {value}), "
                f"{OWN_CODE}, or take that line out"
            )
    return config


def load_model(path: str, *, trust_remote_code: bool, attention: str) -> PreTrainedModel:
    """A causal language model in fp32, every weight read from safetensors and finite.

    Raises ConfigError for anything else. A pickle is not opened: torch's safe unpickler has had holes.
    """
    check_weight_files(path)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.float32,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # as above
        raise ConfigError(
            f"model.path: '{path}' cannot be loaded as a causal language model with attention "
            f"{attention} ({_why(error)}); give a folder written by save_pretrained, or a hub id with "
            "safetensors"
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(
            f"model.path: '{path}' cannot be loaded: its files lack {len(missing)} weights, e.g. "
            f"'{missing[0]}', which would be random; give a folder written by save_pretrained"
        )
    refuse_infinite(model, path)
    return model


def check_weight_files(path: str) -> None:
    """Raises ConfigError for a local folder without safetensors."""
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for kind in PICKLES for file in folder.glob(kind))
    if pickles:
        raise ConfigError(
            f"model.path: '{path}' cannot be loaded: its weights are pickles ({pickles[0]}), which can run "
            "code, and were not opened; if you trust them, write them as safetensors: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
        )
    raise ConfigError(
        f"model.path: '{path}' cannot be loaded: it has no weights (*.safetensors); give a folder written "
        "by save_pretrained"
    )


def refuse_infinite(model: nn.Module, path: str) -> None:
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ConfigError(
                f"model.path: '{path}' cannot be used: its weight '{name}' holds NaN or infinity; give a "
                "folder that was written by a run that did not diverge"
            )


def _why(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return f"it brings code of its own, {OWN_CODE}"
    return f"{type(error).__name__}: {first_line(error)}"
