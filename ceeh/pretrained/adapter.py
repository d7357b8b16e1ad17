"""Which PEFT adapters can be applied: those whose every part is a delta of one matrix of the base.

The engine gets whole weights, so a part that is none would be dropped and another model evaluated. What
is not listed here is refused, from the adapter's files and the base's configuration alone.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from ceeh.errors import ConfigError, first_line
from ceeh.pretrained.loading import load_config

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
DELTA = re.compile(r"(.+)\.(?:lora_([AB])\.weight|lora_embedding_([AB]))")
PLAIN = re.compile(r"(.+?)(?:\.base_layer)?\.(weight|bias)")

APPLIED = {
    *("peft_type", "base_model_name_or_path", "revision", "task_type", "peft_version"),
    *("auto_mapping", "inference_mode", "r", "lora_alpha", "rank_pattern", "alpha_pattern"),
    *("use_rslora", "lora_dropout", "bias", "fan_in_fan_out", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "init_lora_weights"),
}
"""Settings of adapter_config.json that a delta of a matrix covers."""

WITHOUT_EFFECT = {"megatron_core", "qalora_group_size", "ensure_weight_tying", "eva_config"}
"""Settings that act only with one that is refused, or only while an adapter is made."""

SHARED = {"layer_replication", "alora_invocation_tokens"}
"""Settings whose deltas belong to some uses of a matrix and not to others."""

STARTS = (True, False, "gaussian", "orthogonal", "eva", "pissa", "olora")
"""Values of `init_lora_weights` from which peft finds the same base again: others change it at random or
by data that the adapter does not hold."""

MERGE = "merge it with peft's merge_and_unload and give the merged folder"
UNMERGEABLE = "peft cannot merge it exactly either; train an adapter without it"


def read_settings(folder: Path) -> dict[str, Any]:
    """The adapter's settings. Raises ConfigError for any that a push cannot apply exactly."""
    file = folder / "adapter_config.json"
    try:
        settings = json.loads(file.read_text())
        kind = settings.get("peft_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} is not an adapter configuration: {error}") from error
    if kind != "LORA":
        raise ConfigError(
            f"{file}: only LoRA adapters are supported, got peft_type {kind}; {MERGE}"
        )
    for name, value in settings.items():
        if value and name not in APPLIED | WITHOUT_EFFECT:
            raise ConfigError(
                f"{file}: {name} is {_short(value)}, which cannot be applied as a delta of whole matrices; "
                f"{UNMERGEABLE if name in SHARED else MERGE}"
            )
    start = settings.get("init_lora_weights", True)
    if start not in STARTS:
        raise ConfigError(
            f"{file}: init_lora_weights is {_short(start)}, so the base that it was trained over cannot be "
            f"found again from its files; {MERGE}"
        )
    if settings.get("revision") not in (None, "main"):
        raise ConfigError(
            f"{file}: revision is {_short(settings['revision'])}, but only the newest revision of a base is "
            "loaded; download that one and name its folder in base_model_name_or_path"
        )
    return settings


def check_over(folder: Path, base: str, *, trust_remote_code: bool) -> None:
    """Raises ConfigError unless each weight of the adapter belongs to one matrix of the model `base`.

    Its architecture is built without weights, so this takes no memory.
    """
    config = load_config(base, trust_remote_code)
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            f"{folder / 'adapter_config.json'}: its base '{base}' is quantized, and a delta cannot be added "
            "to quantized weights; write the model before quantization into base_model_name_or_path"
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    modules = dict(model.named_modules())
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(head, "weight", None) is getattr(embedding, "weight", None)
    for module in sorted(adapted_modules(folder)):
        found = modules.get(module)
        if found is None:
            problem = "which its base does not have; give the adapter of this base"
        elif found is head:
            problem = f"the output head, whose log-probs are computed without an adapter; {MERGE}"
        elif found is embedding and tied:
            problem = f"the embedding, which is also the head of this base; {UNMERGEABLE}"
        elif not isinstance(found, nn.Linear | nn.Embedding | Conv1D):
            problem = f"which is no plain matrix but {type(found).__name__}; {MERGE}"
        else:
            continue
        raise ConfigError(f"{folder / WEIGHTS} adapts '{module}', {problem}")
    for name in sorted(_plain_weights(folder) - dict(model.named_parameters()).keys()):
        raise ConfigError(
            f"{folder / WEIGHTS} holds '{name}', which is neither a delta nor a weight of its base; {MERGE}"
        )


def adapted_modules(folder: Path) -> set[str]:
    """Names of the base's modules that the adapter's file changes, both factors of each in it."""
    halves: dict[str, set[str]] = {}
    for name in _names(folder):
        if match := DELTA.fullmatch(name):
            halves.setdefault(match[1], set()).add(match[2] or match[3])
    for module, found in halves.items():
        if found != {"A", "B"}:
            raise ConfigError(
                f"{folder / WEIGHTS} has only half of the delta of '{module}'; save the adapter again"
            )
    return set(halves)


def _plain_weights(folder: Path) -> set[str]:
    """Names of the base's weights that the adapter's file replaces, and of anything else in it."""
    found = set()
    for name in _names(folder):
        if not DELTA.fullmatch(name):
            match = PLAIN.fullmatch(name)
            found.add(f"{match[1]}.{match[2]}" if match else name)
    return found


def _names(folder: Path) -> list[str]:
    file = folder / WEIGHTS
    if not file.is_file():
        raise ConfigError(
            f"'{folder}' has no {WEIGHTS}; a pickle (adapter_model.bin) can run code and is not opened: "
            "save the adapter again with peft's save_pretrained"
        )
    try:
        with safe_open(file, "pt") as content:
            return [name.removeprefix(PREFIX) for name in content.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{file} cannot be read ({first_line(error)}); save the adapter again with peft's "
            "save_pretrained"
        ) from error


def _short(value: Any) -> str:
    text = str(list(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
