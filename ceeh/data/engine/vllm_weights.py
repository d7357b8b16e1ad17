"""Which weights a push must contain, and the packed copies that vLLM does not update by itself."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightShapes:
    """Shapes by Hugging Face name: the required ones, and all that are allowed (tied copies, buffers)."""

    required: dict[str, tuple[int, ...]]
    allowed: dict[str, tuple[int, ...]]


def weight_shapes(model_path: str, *, trust_remote_code: bool) -> WeightShapes:
    """Those of the architecture of `model_path`, without loading its weights."""
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return WeightShapes(
        required={name: tuple(weight.shape) for name, weight in model.named_parameters()},
        allowed={name: tuple(weight.shape) for name, weight in model.state_dict().items()},
    )


def checked(
    weights: Iterable[tuple[str, Tensor]], shapes: WeightShapes
) -> Iterator[tuple[str, Tensor]]:
    """Yields `weights`. Raises ValueError for an unknown name or shape, and at the end for missing ones."""
    missing = dict.fromkeys(shapes.required)
    for name, weight in weights:
        if name not in shapes.allowed:
            raise ValueError(
                f"pushed a weight '{name}' that the engine's model does not have; names must be "
                f"those of its Hugging Face model, such as '{next(iter(shapes.required))}'"
            )
        if tuple(weight.shape) != shapes.allowed[name]:
            raise ValueError(
                f"pushed '{name}' with shape {tuple(weight.shape)}, the engine's model has "
                f"{shapes.allowed[name]}; push whole weights of the model the engine was built from"
            )
        missing.pop(name, None)
        yield name, weight
    if missing:
        raise ValueError(
            f"the push lacks {len(missing)} of {len(shapes.required)} weights, the first "
            f"'{next(iter(missing))}'; they would keep older values, push every weight"
        )


def release_packed(model: nn.Module) -> None:
    """Frees the packed matrices of the weights that a push replaces: CPU builds only.

    They would take memory next to the new ones. Nothing can be generated until the push has made those.
    """
    for module in model.modules():
        if "cpu_linear" in vars(module):
            vars(module).update(cpu_linear=None)


def repack_heads(model: nn.Module) -> None:
    """Packs the matrices again that vLLM keeps both plain and packed on the CPU.

    The head is one: it multiplies by a packed copy, which a reload updates only if the head has its own
    weights. With tied embeddings the embedding would be new and the head stale.
    """
    for module in model.modules():
        if "cpu_linear" in vars(module) and module.get_parameter("weight").numel() > 0:
            module.quant_method.process_weights_after_loading(module)  # type: ignore[union-attr]
