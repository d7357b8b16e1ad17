"""The shapes of a model that its memory follows from, read off config.json without any weights."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ceeh.config.settings import LoRA, Model
from ceeh.errors import ConfigError, first_line
from ceeh.modules.policy import refuse_transformed_logits
from ceeh.pretrained.loading import load_config

ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj")
MLP_INPUTS = ("gate_proj", "up_proj")
PROJECTIONS = (*ATTENTION_INPUTS, "o_proj", *MLP_INPUTS, "down_proj")
"""The matrices of a decoder layer that the plan knows, by their names in transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShapes:
    """Counts are elements. `parameters` has the adapter in it; tied weights count once.

    `projections` maps the name of a layer's matrix to (inputs, outputs); `adapted` are the names
    that carry a LoRA adapter, none where all weights are trained. `norms` are a layer's norms of
    the full width; `head_norms` says that queries and keys are normed by head too.
    """

    parameters: int
    trainable: int
    largest_trainable: int
    layers: int
    width: int
    vocabulary: int
    tied: bool
    heads: int
    kv_heads: int
    head_size: int
    projections: dict[str, tuple[int, int]]
    norms: int
    head_norms: bool
    adapted: tuple[str, ...]
    rank: int
    dropout: bool

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def mlp_width(self) -> int:
        return self.projections["down_proj"][0]

    @property
    def projection_elements(self) -> int:
        """Of all matrices of one layer."""
        return sum(inputs * outputs for inputs, outputs in self.projections.values())

    def with_adapters(self, rank: int) -> "ModelShapes":
        """The same model under a LoRA of `rank` on all matrices of its layers, where it has none."""
        if self.rank or not rank:
            return self
        sizes = self.projections.values()
        trainable = self.layers * sum(rank * sum(size) for size in sizes)
        return replace(
            self,
            parameters=self.parameters + trainable,
            trainable=trainable,
            largest_trainable=rank * max(max(size) for size in sizes),
            adapted=PROJECTIONS,
            rank=rank,
        )


def read_shapes(settings: Model, path: str) -> ModelShapes:
    """The shapes of the model in folder or hub id `path`, trained as `settings` say.

    Raises ConfigError when no config.json can be had, for a model that cannot be trained, and for
    one whose layers are not attention and a gated MLP of plain matrices.
    """
    config = load_config(path, settings.trust_remote_code)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=settings.trust_remote_code
            )
    except Exception as error:  # a config.json of a stranger: whatever its reader raises
        raise ConfigError(
            f"model.path: the config.json of '{path}' makes no causal language model "
            f"({first_line(error)}); give a folder written by save_pretrained"
        ) from error
    refuse_transformed_logits(model)
    return shapes_of(model, settings.lora)


def shapes_of(model: PreTrainedModel, lora: LoRA) -> ModelShapes:
    """The shapes of `model`, which may be on the meta device and must not carry an adapter yet."""
    layer, layers = first_layer(model)
    linears = {
        name.rpartition(".")[2]: module
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }
    if sorted(linears) != sorted(PROJECTIONS):
        raise unknown(model, f"the matrices of its layers are {', '.join(linears) or 'none'}")
    config: Any = model.config
    head: Any = model.get_output_embeddings()
    heads = config.num_attention_heads
    norms = [name for name, module in layer.named_modules() if "Norm" in type(module).__name__]
    head_norms = [name for name in norms if name.endswith(("q_norm", "k_norm"))]
    weights = [weight.numel() for weight in model.parameters()]
    adapted = adapted_matrices(model, lora)
    adapters = sum(lora.rank * sum(size) for size in adapted.values())
    return ModelShapes(
        parameters=sum(weights) + adapters,
        trainable=adapters if adapted else sum(weights),
        largest_trainable=max(lora.rank * max(size) for size in adapted.values())
        if adapted
        else max(weights),
        layers=layers,
        width=config.hidden_size,
        vocabulary=head.weight.shape[0],
        tied=head.weight is model.get_input_embeddings().weight,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=linears["q_proj"].out_features // heads,
        projections={
            name: (linears[name].in_features, linears[name].out_features) for name in PROJECTIONS
        },
        norms=len(norms) - len(head_norms),
        head_norms=bool(head_norms),
        adapted=tuple(
            name for name in PROJECTIONS if any(key.endswith(f".{name}") for key in adapted)
        ),
        rank=lora.rank,
        dropout=lora.dropout > 0,
    )


def first_layer(model: PreTrainedModel) -> tuple[nn.Module, int]:
    """One decoder layer and how many there are, all alike."""
    layers: Any = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise unknown(model, "it has no list of decoder layers")
    sizes = {sum(weight.numel() for weight in layer.parameters()) for layer in layers}
    if len(sizes) > 1:
        raise unknown(model, "its layers are not alike")
    return layers[0], len(layers)


def adapted_matrices(model: PreTrainedModel, lora: LoRA) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each matrix that `lora` adapts, by its path; none without LoRA.

    PEFT's rule: `all-linear` is every nn.Linear but the output head, any other name is that of the
    matrix or the end of its path. Raises ConfigError when nothing is named, and for the output head.
    """
    if not lora.rank:
        return {}
    head, names = model.get_output_embeddings(), lora.target_modules
    adapted = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (
            module is not head
            if names == ["all-linear"]
            else any(name == target or name.endswith(f".{target}") for target in names)
        )
    }
    if any(module is head and name in adapted for name, module in model.named_modules()):
        raise ConfigError(
            "model.lora.target_modules must not name the output head; leave it out, or use "
            "['all-linear']"
        )
    if not adapted:
        raise ConfigError(
            f"model.lora.target_modules: {type(model).__name__} has no {', '.join(names)}; use "
            f"['all-linear'], or names among {', '.join(PROJECTIONS)}"
        )
    return adapted


def unknown(model: PreTrainedModel, why: str) -> ConfigError:
    return ConfigError(
        f"model.path: there is no memory plan for {type(model).__name__}: {why}, and the plan knows "
        f"layers of {', '.join(PROJECTIONS)} (Qwen2, Qwen3, Llama, Mistral, ...); "
        "it can be trained without a plan, leave out --dry-run"
    )
