"""The shapes of a model, read from its config.json, and the bytes of its weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ceeh.config.settings import LoRA, Model
from ceeh.errors import ConfigError, first_line
from ceeh.pretrained.loading import load_config

FP32, NF4_BYTES = 4, 4.13 / 8
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShapes:
    """Counts are elements. `parameters` includes an adapter; tied weights count once.

    `layer` maps `MATRICES` to (inputs, outputs). `stored`: bytes of a weight in the model's files, 2 for
    bf16 and else 4. `norm_width` sums the widths of a layer's norms, those
    of queries and keys over all heads.
    """

    parameters: int
    trained: int
    largest_trained: int
    layers: int
    width: int
    vocabulary: int
    tied: bool
    norm_width: int
    layer: dict[str, tuple[int, int]]
    stored: int = FP32
    kv_heads: int = 1

    def frozen(self, lora: LoRA, compute: int) -> int:
        """Bytes of a weight that LoRA does not train, and of a number of the residual stream."""
        return max(self.stored, compute) if lora.rank else FP32

    def policy_bytes(self, lora: LoRA, compute: int) -> int:
        packed = (
            self.layers * sum(i * o for i, o in self.layer.values()) if lora.base == "nf4" else 0
        )
        frozen = self.parameters - self.trained - packed if lora.rank else 0
        return FP32 * self.trained + self.frozen(lora, compute) * frozen + int(NF4_BYTES * packed)


def read_shapes(settings: Model, path: str) -> ModelShapes:
    """Builds the model from `path`/config.json without weights.

    Raises ConfigError for a config.json that cannot be used, for layers that differ or hold other
    matrices than `MATRICES`, and for a name in `model.lora.target_modules` that no matrix has.
    """
    remote = settings.trust_remote_code
    config = load_config(path, remote)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=remote)
    except Exception as error:  # a foreign config.json: transformers may raise anything
        raise ConfigError(
            f"model.path: the config.json of '{path}' does not describe a causal language model "
            f"({first_line(error)}); give a folder written by save_pretrained"
        ) from error
    layers: Any = getattr(model.base_model, "layers", None) or [nn.Module()]
    modules = dict(layers[0].named_modules())
    layer = {
        name: (module.in_features, module.out_features)
        for name, module in modules.items()
        if isinstance(module, nn.Linear)
    }
    named = {name.rpartition(".")[2]: size for name, size in layer.items()}
    sizes = {sum(weight.numel() for weight in one.parameters()) for one in layers}
    if sorted(named) != sorted(MATRICES) or len(layer) > len(named) or len(sizes) > 1:
        raise ConfigError(
            f"model.path: no memory plan for {type(model).__name__}: its layers differ or hold other "
            f"matrices than {', '.join(MATRICES)} (Qwen2, Qwen3, Llama, Mistral, ...); train it "
            "without --dry-run"
        )
    adapters: list[int] = []
    for target in settings.lora.target_modules if settings.lora.rank else []:
        chosen = [p for p in layer if target == "all-linear" or f".{p}".endswith(f".{target}")]
        if not chosen:
            raise ConfigError(
                f"model.lora.target_modules: no matrix of the decoder layers is named {target}; use "
                f"['all-linear'], or names among {', '.join(MATRICES)}"
            )
        adapters += [settings.lora.rank * sum(layer[path]) for path in chosen] * len(layers)
    head, weights = model.get_output_embeddings(), [w.numel() for w in model.parameters()]
    width = named["q_proj"][0]
    normed = {"q_norm": named["q_proj"][1], "k_norm": named["k_proj"][1]}
    norms = [name for name, module in modules.items() if "Norm" in type(module).__name__]
    return ModelShapes(
        parameters=sum(weights) + sum(adapters),
        trained=sum(adapters or weights),
        largest_trained=max(adapters or weights),
        layers=len(layers),
        width=width,
        vocabulary=head.weight.shape[0],
        tied=head.weight is model.get_input_embeddings().weight,
        norm_width=sum(normed.get(name.rpartition(".")[2], width) for name in norms),
        layer=named,
        stored=2 if config.dtype == torch.bfloat16 else FP32,
        kv_heads=getattr(config.get_text_config(), "num_key_value_heads", 1),
    )


def gathered_bytes(shapes: ModelShapes, lora: LoRA, compute: int) -> int:
    """Whole weights under FSDP: embedding and head, and two layers of which one is computing.

    Of the trained ones the gradients, too, until their sum over ranks is split again.
    """
    outside = shapes.vocabulary * shapes.width * (1 if shapes.tied else 2)
    layers = 2 * sum(inputs * outputs for inputs, outputs in shapes.layer.values())
    frozen = shapes.frozen(lora, compute)
    return (outside + layers) * (frozen if lora.rank else 2 * FP32)
