"""Which weights a push must bring, and what vLLM forgets when it takes them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightShapes:
    """Shapes by Hugging Face name: those that must come, all that may (tied copies, buffers)."""

    required: dict[str, tuple[int, ...]]
    allowed: dict[str, tuple[int, ...]]


def weight_shapes(model_path: str, *, trust_remote_code: bool) -> WeightShapes:
    """Read off the architecture of `model_path`, without its weights."""
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
    """Passes `weights` on. Raises ValueError for an unknown name or shape, in the end for gaps."""
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
            f"the push left out {len(missing)} of {len(shapes.required)} weights, the first "
            f"'{next(iter(missing))}'; those would stay at older values, push every weight"
        )


def release_packed(model: nn.Module) -> None:
    """Drops the packed matrices of the weights that are about to be replaced: CPU builds only.

    They would live on beside the new ones, the head's until the push is over. Nothing can be
    generated before the push has made new ones.
    """
    for module in model.modules():
        if "cpu_linear" in vars(module):
            vars(module).update(cpu_linear=None)


def repack_heads(model: nn.Module) -> None:
    """Packs anew, from their plain weights, the matrices that vLLM keeps in both forms on the CPU.

    The head is one: it multiplies by a packed copy, which a reload refreshes only where the head
    has weights of its own. With tied embeddings the embedding would be new and the head stale.
    """
    for module in model.modules():
        if "cpu_linear" in vars(module) and module.get_parameter("weight").numel() > 0:
            module.quant_method.process_weights_after_loading(module)  # type: ignore[union-attr]
