"""Loads base models and their tokenizers: a local folder, a hub id, or the starter.

Their files are untrusted. Nothing in them is executed except a chat template, in jinja's sandbox, and a
model's own code where the user allows it.
"""

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ceeh.errors import ConfigError, first_line
from ceeh.runtime.text import flatten
from ceeh.starter.model import MODEL_DIR

OWN_CODE = (
    "it was not executed; if you trust it, set model.trust_remote_code=true, or --trust-remote-code"
)
HUB_TIMEOUT_SECONDS = 10
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def resolve_model(path: str) -> str:
    """A local folder, a hub id, `starter` for the model that ships with ceeh, or a run for its model."""
    if path == "starter":
        path = str(MODEL_DIR)
    folder = Path(path)
    if (folder / "config.yaml").is_file() and (folder / "model" / "config.json").is_file():
        return str(folder / "model")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: '{path}' has no config.json; give a folder written by save_pretrained"
        )
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ConfigError(f"model.path: no folder '{path}'")
    if not folder.is_dir():
        _ask_hub(path)
    return path


@cache
def _ask_hub(path: str) -> None:
    """Asks the hub for a model once; one that does not answer leaves all models to the cache.

    The hub's client would retry each file for half a minute.
    """
    try:
        HfApi().model_info(path, timeout=HUB_TIMEOUT_SECONDS)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
        return  # it answers, or is not to be asked: loading says what is wrong
    except Exception as error:  # the hub's client has changed its transport and its errors before
        warnings.warn(
            f"the hub does not answer ({first_line(error)}); models come from the cache, as with "
            "HF_HUB_OFFLINE=1",
            stacklevel=3,
        )
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the engine, which may be another process


def load_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, after checks that need no weights.

    Raises ConfigError for unreadable files, for a local folder without safetensors, and for a tokenizer
    with more tokens than the model or without an end-of-sequence token.
    """
    check_weight_files(path)
    config = load_config(path, trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # untrusted files: their readers may raise anything
        raise _unreadable(path, _reason(error)) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.path: the tokenizer of '{path}' has no end-of-sequence token; set eos_token in its "
            "tokenizer_config.json"
        )
    tokens, rows = set(tokenizer.get_vocab().values()), config.get_text_config().vocab_size
    if tokens <= set(tokenizer.all_special_ids):
        raise _unreadable(path, "the tokenizer has no vocabulary")
    if max(tokens) >= rows:
        raise ConfigError(
            f"model.path: the tokenizer of '{path}' has tokens up to {max(tokens)}, the model's embedding "
            f"has {rows} rows; use the tokenizer of the model, or model.resize_token_embeddings"
        )
    return tokenizer


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token, or the end token of a tokenizer without one: padding is masked everywhere."""
    pad = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if pad is None else pad)  # type: ignore[arg-type]


def load_config(path: str, trust_remote_code: bool) -> Any:
    """The model's config.json. Raises ConfigError if it cannot be read.

    A config.json may name kernels by hub id. transformers would download and run them whatever
    `trust_remote_code` says, so they are treated as the model's own code.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        written, _ = PreTrainedConfig.get_config_dict(path)
    except Exception as error:  # as above
        raise _unreadable(path, _reason(error)) from error
    for name, value in flatten(written).items():
        if "_implementation" in name and "/" in str(value) and not trust_remote_code:
            raise ConfigError(
                f"model.path: the config.json of '{path}' asks for foreign kernels ({name}: {value}); "
                f"{OWN_CODE}, or remove that line"
            )
    return config


def check_length(config: Any, path: str, longest: int, settings: str) -> None:
    """Raises ConfigError if `longest`, tokens of prompt and response, exceeds the model's positions.

    `settings` are those that give it, as a sum.
    """
    limit = num_positions(config.get_text_config())
    if limit is not None and longest > limit:
        raise ConfigError(
            f"{settings} must be at most {limit}, the positions of '{path}', got {longest}; lower one of "
            "them, or take a model with a longer context"
        )


def num_positions(config: Any) -> int | None:
    """Tokens that the positions of a model reach, scaled rotary ones included; None for no limit."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if limit is None:
        return None
    limits = [limit]
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in [rope] if "rope_type" in rope else rope.values():  # or one for each kind of layer
        factor = kind.get("factor") or 1.0
        if kind.get("rope_type") in ("linear", "dynamic"):
            limits.append(int(limit * factor))
        elif kind.get("rope_type") == "yarn":
            limits.append(int(factor * (kind.get("original_max_position_embeddings") or limit)))
    return max(limits)


def load_model(
    path: str,
    *,
    trust_remote_code: bool,
    attention: str,
    dtype: torch.dtype = torch.float32,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """A causal language model in `dtype`, with every weight read from safetensors and finite.

    `quantization` packs the matrices of the decoder layers.
    Where its attention scores have a soft cap (Gemma 2), which sdpa silently leaves out, sdpa becomes eager.
    Raises ConfigError for anything else. Pickles are never opened: torch's safe unpickler has had holes.
    """
    check_weight_files(path)
    config = load_config(path, trust_remote_code).get_text_config()
    if attention == "sdpa" and getattr(config, "attn_logit_softcapping", None):
        attention = "eager"
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            quantization_config=quantization,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # as above
        raise ConfigError(
            f"model.path: '{path}' cannot be loaded as a causal language model with attention "
            f"{attention} ({_reason(error)}); give a folder written by save_pretrained, or a hub id with "
            "safetensors"
        ) from error
    model, report = loaded
    # Pushes and exports have the family's standard format, whatever the format of these files.
    vars(model).pop("_weight_conversions", None)
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(
            f"model.path: '{path}' cannot be loaded: its files lack {len(missing)} weights, e.g. "
            f"'{missing[0]}', which would be random; give a folder written by save_pretrained"
        )
    check_finite(model, path)
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


def check_finite(model: nn.Module, path: str) -> None:
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ConfigError(
                f"model.path: '{path}' cannot be used: its weight '{name}' contains NaN or infinity; give "
                "a model whose training did not diverge"
            )


def _unreadable(path: str, reason: str) -> ConfigError:
    return ConfigError(
        f"model.path: cannot load model or tokenizer from '{path}' ({reason}); give a folder with "
        "config.json and tokenizer.json, or a hub id that can be reached"
    )


def _reason(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return f"it contains its own code; {OWN_CODE}"
    return f"{type(error).__name__}: {first_line(error)}"
