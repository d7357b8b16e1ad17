"""A push: which weights it must contain, and the packed copies that vLLM does not update by itself."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ceeh.errors import ConfigError
from ceeh.pretrained.file_format import as_in_files


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightShapes:
    """Shapes by the names in the model's files: the required ones, and all that are allowed (tied copies)."""

    required: dict[str, tuple[int, ...]]
    allowed: dict[str, tuple[int, ...]]


def skeleton(model_path: str, *, trust_remote_code: bool) -> PreTrainedModel:
    """The model of `model_path` as transformers builds it, without memory for weights."""
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def weight_shapes(model: PreTrainedModel) -> WeightShapes:
    """The shapes that a push of `model` has."""
    allowed = model.state_dict()
    once: dict[str, Tensor] = dict(model.named_parameters())
    once |= {name: weight for name, weight in model.named_buffers() if name in allowed}
    return WeightShapes(
        required={name: tuple(weight.shape) for name, weight in as_in_files(model, once.items())},
        allowed={name: tuple(weight.shape) for name, weight in as_in_files(model, allowed.items())},
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
                f"those of its files, such as '{next(iter(shapes.required))}'"
            )
        if tuple(weight.shape) != shapes.allowed[name]:
            raise ValueError(
                f"pushed '{name}' with shape {tuple(weight.shape)}, the engine's model has "
                f"{shapes.allowed[name]}; push whole weights of the model the engine was built from"
            )
        missing.pop(name, None)
        yield name, weight
        del weight  # before the next one is gathered
    if missing:
        raise ValueError(
            f"the push lacks {len(missing)} of {len(shapes.required)} weights, the first "
            f"'{next(iter(missing))}'; they would keep older values, push every weight"
        )


def reload_weights(llm: Any, weights: Iterable[tuple[str, Tensor]], shapes: WeightShapes) -> None:
    """Replaces every weight of vLLM's `llm` as it streams in, then drops cached prefixes.

    Raises ValueError as `checked` does; the weights are then half replaced.
    """
    arguments = {"weights_iterator": checked(weights, shapes), "is_checkpoint_format": True}
    llm.apply_model(release_packed)
    llm.collective_rpc("reload_weights", kwargs=arguments)
    llm.apply_model(repack_heads)
    if llm.reset_prefix_cache() is False:
        raise RuntimeError("vLLM kept cached prefixes of older weights: requests are running")


def release_packed(model: nn.Module) -> None:
    """Frees the packed matrices of the weights that a push replaces: CPU builds only.

    They would take memory next to the new ones. Nothing can be generated until the push has made those.
    Experts are packed when their kernel is built, and vLLM would keep the kernel and leave new experts
    unpacked (`UnquantizedFusedMoEMethod._setup_kernel`); without one it builds and packs as at the start.
    """
    for module in model.modules():
        if "cpu_linear" in vars(module):
            vars(module).update(cpu_linear=None)
        method = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None and on_cpu(module):
            method.moe_kernel = None  # type: ignore[union-attr]


def check_sleeps(model: nn.Module) -> None:
    """Raises ConfigError for attention biases, which vLLM keeps outside of parameters and buffers.

    Sleep at level 2 drops them, and neither waking nor a push brings them back.
    """
    for module in model.modules():
        if getattr(getattr(module, "impl", None), "alibi_slopes", None) is not None:
            raise ConfigError(
                "engine.init_args.sleep: vLLM would lose this model's ALiBi slopes while it sleeps; set "
                "it to false"
            )


def on_cpu(module: nn.Module) -> bool:
    return all(weight.device.type == "cpu" for weight in module.parameters(recurse=False))


def repack_heads(model: nn.Module) -> None:
    """Packs the matrices again that vLLM keeps both plain and packed on the CPU.

    The head is one: it multiplies by a packed copy, which a reload updates only if the head has its own
    weights. With tied embeddings the embedding would be new and the head stale.
    """
    for module in model.modules():
        if "cpu_linear" in vars(module) and module.get_parameter("weight").numel() > 0:
            module.quant_method.process_weights_after_loading(module)  # type: ignore[union-attr]
