"""LoRA over a model: a new or a loaded adapter, which targets it may have, and a base of 4 bits."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from ceeh.config.settings import Model
from ceeh.errors import ConfigError, first_line


def with_adapter(model: PreTrainedModel, settings: Model, adapter: Path | None):
    """The model with a new adapter, or with the one in the folder `adapter`.

    Raises ConfigError for targets that the model does not have, and for a folder that cannot be loaded.
    """
    lora, targets = settings.lora, settings.lora.target_modules
    with warnings.catch_warnings():
        # `check_targets` refuses what the first warns of. The second is of the factor for the rank of
        # fused experts, which peft gives its own names.
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        # peft then sets it itself (GPT-2).
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        try:
            if adapter is not None:
                return PeftModel.from_pretrained(model, adapter, is_trainable=True)
            config = LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft's annotation is narrower than its code
                lora_dropout=lora.dropout,
                target_modules="all-linear" if targets == ["all-linear"] else targets,
                task_type="CAUSAL_LM",
            )
            return get_peft_model(model, config)
        except Exception as error:  # files may hold anything, and their reader raise anything
            if adapter is not None:
                raise ConfigError(
                    f"'{adapter}' cannot be loaded over its base ({first_line(error)}); give the "
                    "adapter of that model, as peft's save_pretrained writes it"
                ) from error
            if not isinstance(error, ValueError):
                raise
            raise ConfigError(
                f"model.lora.target_modules does not fit the model, got {targets} "
                f"({first_line(error)}); name matrices of it, or ['all-linear']"
            ) from error


def check_targets(model: nn.Module) -> None:
    """Raises ConfigError for an adapter on the output head, or on the embedding that the head is tied to."""
    causal_lm: Any = model.get_base_model()  # type: ignore[operator]
    head, embedding = causal_lm.get_output_embeddings(), causal_lm.get_input_embeddings()
    if isinstance(head, LoraLayer):
        raise ConfigError(
            "model.lora.target_modules must not name the output head: the chunked head reads its "
            "weight without the adapter; remove it, or use ['all-linear']"
        )
    if isinstance(embedding, LoraLayer) and embedding.get_base_layer().weight is head.weight:
        raise ConfigError(
            "model.lora.target_modules must not name the embedding of a model that ties its head to it "
            "(tie_word_embeddings): the engine would add the adapter to both; remove it, or use "
            "['all-linear']"
        )


def nf4(*, bf16: bool) -> BitsAndBytesConfig:
    """NormalFloat of 4 bits with quantized scales, 4.13 bits a weight: QLoRA, section 3."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )
