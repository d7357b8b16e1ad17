"""A model's whole weights, one at a time: the adapter added, sharded ones gathered, 4 bits unpacked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


@torch.no_grad()
def merged(causal_lm: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its name in the causal LM, one at a time, the adapter added in fp32.

    The training weights are never merged in place: merging and unmerging drifts.
    """
    adapted = {id(adapted_weight(layer)): layer for layer in lora_layers(causal_lm)}
    for name, weight in causal_lm.named_parameters():
        if ".lora_" in name:
            continue
        value = whole(weight)
        if value.dtype == torch.uint8:
            packed = causal_lm.get_submodule(name.removesuffix(".weight"))
            value = dequantize_module_weight(packed).detach()
        if layer := adapted.get(id(weight)):
            with whole_factors(layer):
                value = value.float() + layer.get_delta_weight("default").float()
        yield name.replace(".base_layer", ""), value


def saved_buffers(causal_lm: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Persistent buffers: not trained, but part of the model's files."""
    persistent = causal_lm.state_dict().keys()
    for name, value in causal_lm.named_buffers():
        if name in persistent:
            yield name.replace(".base_layer", ""), value


def whole(weight: Tensor) -> Tensor:
    """The weight without gradient; a sharded one is gathered, which is collective."""
    weight = weight.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


@contextmanager
def whole_factors(layer: Any) -> Iterator[None]:
    """Inside, the factors of a LoRA layer are whole. Collective where they are sharded."""
    factors = (layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B)
    kept = [
        (module, name, value)
        for factor in factors
        for module in factor.modules()
        for name, value in module.named_parameters(recurse=False)
        if isinstance(value, DTensor)
    ]
    for module, name, value in kept:
        setattr(module, name, nn.Parameter(whole(value), requires_grad=False))
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def lora_layers(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, LoraLayer))


def adapted_weight(layer: Any) -> nn.Parameter:
    """The weight that a LoRA layer adapts; of experts, which are one tensor, a parameter of their module."""
    return layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
