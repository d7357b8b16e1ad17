"""The policy: a causal LM, full or with LoRA, that returns log-probs and entropy instead of logits."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from ceeh.config.settings import Model
from ceeh.errors import ConfigError, first_line
from ceeh.modules.head import (
    LogitTransform,
    TokenObjective,
    chunked_logprobs_and_entropy,
    chunked_objective,
)
from ceeh.modules.packing import Packing, packs_rows
from ceeh.pretrained.file_format import as_in_files
from ceeh.pretrained.generation import generation_settings
from ceeh.pretrained.loading import load_config, load_model
from ceeh.pretrained.shards import MAX_SHARD_BYTES, write_shards
from ceeh.run.disk_space import storage_bytes
from ceeh.runtime.versions import tensors_digest

HEAD_TOLERANCE = 1e-3
"""Nats, both sides in fp32."""


class Policy(nn.Module):
    """The model at `path`, a folder or hub id. Trained weights are in fp32.

    Under LoRA the frozen weights keep their files' dtype where `precision` multiplies in bf16 anyway, so
    that a 7B model takes 14 GB instead of 28, or are packed to 4 bits (`model.lora.base`).
    `keep_reference` keeps the starting policy for the KL term: with LoRA the same model without its
    adapter, otherwise a second copy of the weights. `adapter` is a PEFT folder with a LoRA to start
    from. Raises ConfigError for a model whose logits the chunked head does not reproduce, and for an
    adapter that cannot be merged for the engine.
    """

    def __init__(
        self,
        settings: Model,
        path: str,
        *,
        temperature: float,
        keep_reference: bool,
        adapter: Path | None = None,
        precision: str = "32-true",
    ) -> None:
        super().__init__()
        # torch's first choice on Hopper and newer. Its gradients can be NaN where rows are masked (H100 and
        # H200, pytorch issue 196678), and it is wrong for fewer than 8 key-value heads (B200, 193893).
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.path = path
        self.temperature = temperature
        self.chunk_tokens = settings.head_chunk_tokens
        stored: Any = load_config(path, settings.trust_remote_code).dtype
        self.dtype: torch.dtype = stored or torch.float32
        self.lora = settings.lora.rank > 0 or adapter is not None
        self.keeps_reference = keep_reference
        bf16 = precision == "bf16-mixed"
        self.head_operands = torch.bfloat16 if bf16 else None
        keeps_dtype = self.lora and bf16 and self.dtype == torch.bfloat16
        model = load_model(
            path,
            trust_remote_code=settings.trust_remote_code,
            attention=settings.attention,
            dtype=self.dtype if keeps_dtype else torch.float32,
            quantization=nf4(bf16=bf16) if self.lora and settings.lora.base == "nf4" else None,
        )
        self.transform = logit_transform(model)
        check_head(model, self.transform)
        self.packs = packs_rows(model, settings.attention)
        """Whether rows may be given without padding."""
        self.model: nn.Module = model
        self.reference: list[Policy] = []
        if self.lora:
            model = self._with_adapter(model, settings, adapter)
            check_targets(model)
        elif keep_reference:
            # In a list, so that it is neither trained nor checkpointed with the policy.
            self.reference.append(copy.deepcopy(self).requires_grad_(False))
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            self._checkpoint_in_evaluation_mode(model)
        self.model = model
        self.train()

    def train(self, mode: bool = True) -> "Policy":
        """Training mode is for the adapter's dropout; the base model is always in evaluation mode.

        With dropout of its own (GPT-2, OPT) the ratio would be random from the first optimizer step on.
        """
        super().train(False)
        self.training = mode
        for module in self.modules():
            if isinstance(module, LoraLayer):
                module.lora_dropout.train(mode)
            if getattr(module, "gradient_checkpointing", False):
                module.training = mode  # transformers checkpoints in training mode only
        return self

    def _checkpoint_in_evaluation_mode(self, model: nn.Module) -> None:
        """Decides on checkpointing in training mode, and runs what is inside in evaluation mode."""

        def enter(layer: nn.Module, _: Any) -> None:
            layer.training = False

        def leave(layer: nn.Module, *_: Any) -> None:
            layer.training = self.training

        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.register_forward_pre_hook(enter)
                # Also when a recomputation stops early, which torch does by an exception.
                layer.register_forward_hook(leave, always_call=True)

    @staticmethod
    def _with_adapter(model: PreTrainedModel, settings: Model, adapter: Path | None):
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

    @cached_property
    def base_digest(self) -> str:
        """The digest of the files that the weights came from."""
        return tensors_digest(self.path)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The Hugging Face model inside a possible PEFT wrapper."""
        wrapped: Any = self.model
        return wrapped.get_base_model() if self.lora else wrapped

    @torch.no_grad()
    def forward(
        self,
        token_ids: Int[Tensor, "R T"],
        response_mask: Bool[Tensor, "R T"],
        response_index: Int[Tensor, " N"] | None = None,
        packing: Packing | None = None,
    ) -> tuple[Float[Tensor, "R T"], Float[Tensor, "R T"]]:
        """Log-prob of each response token and entropy (nats) of the distribution it was drawn from.

        Both are at the sampling temperature, zero outside `response_mask` and without gradient. Rows
        are padded on the right, so causal attention alone keeps padding out. `response_index` holds the flat
        positions of the mask's tokens; finding them here makes the host wait for a GPU. With `packing`
        there is one row [1 S], which holds the rows one after the other.
        """
        return self._evaluate(token_ids, flat_index(response_mask, response_index), packing)

    def loss(
        self,
        token_ids: Int[Tensor, "R T"],
        response_mask: Bool[Tensor, "R T"],
        objective: TokenObjective,
        response_index: Int[Tensor, " N"] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, ""]:
        """The sum of `objective` over all response tokens, chunk by chunk in the mask's order."""
        response_index = flat_index(response_mask, response_index)
        hidden, targets = self._predicting(token_ids, response_index, packing)
        return chunked_objective(hidden, targets=targets, objective=objective, **self._head())

    @torch.no_grad()
    def reference_logprobs(
        self,
        token_ids: Int[Tensor, "R T"],
        response_mask: Bool[Tensor, "R T"],
        response_index: Int[Tensor, " N"] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "R T"]:
        """Log-probs under the starting policy."""
        response_index = flat_index(response_mask, response_index)
        if self.lora:
            wrapped: Any = self.model
            with wrapped.disable_adapter():
                return self._evaluate(token_ids, response_index, packing)[0]
        reference = self.reference[0].to(token_ids.device)
        return reference(token_ids, response_mask, response_index, packing)[0]

    def _evaluate(
        self, token_ids: Tensor, response_index: Tensor, packing: Packing | None
    ) -> tuple[Tensor, Tensor]:
        training = self.training
        self.eval()
        hidden, targets = self._predicting(token_ids, response_index, packing)
        self.train(training)
        logprobs, entropy = chunked_logprobs_and_entropy(hidden, targets=targets, **self._head())
        zeros = torch.zeros(token_ids.numel(), dtype=logprobs.dtype, device=token_ids.device)
        return tuple(  # type: ignore[return-value]
            zeros.index_copy(0, response_index, each).view(token_ids.shape)
            for each in (logprobs, entropy)
        )

    def _head(self) -> dict[str, Any]:
        """The output head, for `chunked_objective` and `chunked_logprobs_and_entropy`."""
        head: Any = self.causal_lm.get_output_embeddings()
        return {
            "weight": head.weight,
            "bias": head.bias,
            "transform": self.transform,
            "temperature": self.temperature,
            "chunk_tokens": self.chunk_tokens,
            "operands": self.head_operands,
        }

    def _predicting(
        self, token_ids: Tensor, response_index: Tensor, packing: Packing | None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states that predict the N response tokens [N D], and the tokens [N]."""
        rows = {} if packing is None else packing.arguments
        base: Any = self.causal_lm.base_model
        hidden = base(input_ids=token_ids, use_cache=False, **rows).last_hidden_state
        predicting = hidden.flatten(0, 1).index_select(0, response_index - 1)
        return predicting, token_ids.flatten().index_select(0, response_index)

    def engine_weights(self) -> Iterator[tuple[str, Tensor]]:
        """What the model's files hold, named as there, with the adapter added in fp32.

        Sharded weights are gathered one at a time, by all ranks together.
        """
        return as_in_files(self.causal_lm, chain(self._merged(), self._saved_buffers()))

    @torch.no_grad()
    def _merged(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its name in the causal LM, one at a time, the adapter added in fp32.

        The training weights are never merged in place: merging and unmerging drifts.
        """
        adapted = {id(adapted_weight(layer)): layer for layer in lora_layers(self.causal_lm)}
        for name, weight in self.causal_lm.named_parameters():
            if ".lora_" in name:
                continue
            value = whole(weight)
            if value.dtype == torch.uint8:
                packed = self.causal_lm.get_submodule(name.removesuffix(".weight"))
                value = dequantize_module_weight(packed).detach()
            if layer := adapted.get(id(weight)):
                with whole_factors(layer):
                    value = value.float() + layer.get_delta_weight("default").float()
            yield name.replace(".base_layer", ""), value

    def save(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: torch.dtype | None = None,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> int:
        """Writes a Hugging Face folder, an adapter merged; `dtype` is by default that of the start model.

        Its generation settings are those of the rollouts (`generation_settings`). Returns the bytes of
        the weights; raises ConfigError for NaN or infinity in one. Of sharded weights one rank writes the
        folder, while the others iterate over `engine_weights`.
        """
        dtype = dtype or self.dtype
        weights = ((name, value.to(dtype)) for name, value in self._merged())
        stored = as_in_files(self.causal_lm, chain(weights, self._saved_buffers()))
        try:
            self._save_settings(folder, tokenizer, dtype)
            return write_shards(folder, stored, max_shard_bytes=max_shard_bytes)
        finally:
            for _ in stored:  # after an error: the other ranks must not wait for this one
                pass

    def _save_settings(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Training is in fp32; the folder's config names the dtype of its files.
        config = copy.deepcopy(self.causal_lm.config)
        config.dtype = dtype
        vars(config).pop("quantization_config", None)  # the files hold whole weights
        config.save_pretrained(folder)
        generation = generation_settings(
            self.causal_lm.generation_config, tokenizer, temperature=self.temperature
        )
        generation.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def _saved_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Persistent buffers: not trained, but part of the model's files."""
        persistent = self.causal_lm.state_dict().keys()
        for name, value in self.causal_lm.named_buffers():
            if name in persistent:
                yield name.replace(".base_layer", ""), value

    def save_adapter(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, *, dtype: torch.dtype | None = None
    ) -> int:
        """Writes a PEFT folder: the adapter alone, as trained (fp32) or in `dtype`. Returns its bytes."""
        assert self.lora, "a policy without LoRA has no adapter"
        wrapped: Any = self.model
        weights = {
            name: value.to(dtype or value.dtype)
            for name, value in wrapped.state_dict().items()
            if ".lora_" in name
        }
        # With save_embedding_layers peft would look for the base on the hub; LoRA changes no embedding.
        wrapped.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
        tokenizer.save_pretrained(folder)
        return sum(value.nbytes for value in weights.values())

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint: the weights (with LoRA the adapter's alone) and Adam's two moments."""
        trainable = storage_bytes(self.trainable)
        weights = trainable if self.lora else storage_bytes(self.state_dict().values())
        return weights + 2 * trainable


def nf4(*, bf16: bool) -> BitsAndBytesConfig:
    """NormalFloat of 4 bits with quantized scales, 4.13 bits a weight: QLoRA, section 3."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )


def flat_index(
    response_mask: Bool[Tensor, "R T"], response_index: Int[Tensor, " N"] | None
) -> Int[Tensor, " N"]:
    """`response_index`, or where the flattened mask is True. No row begins with a response token."""
    return response_mask.flatten().nonzero()[:, 0] if response_index is None else response_index


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


def logit_transform(model: PreTrainedModel) -> LogitTransform:
    """From the names that transformers' families use: Gemma caps, Cohere multiplies, Granite divides."""
    values = vars(model.config.get_text_config())
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    scale = numbers.get("logit_scale", 1.0) / numbers.get("logits_scaling", 1.0)
    return LogitTransform(scale=scale, cap=numbers.get("final_logit_softcapping"))


@torch.no_grad()
def check_head(model: PreTrainedModel, transform: LogitTransform) -> None:
    """Raises ConfigError unless the chunked head gives the log-probs that the model itself gives."""
    name, head = type(model).__name__, model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"model.path: {name} has no output head that is one matrix")
    attention = model.config._attn_implementation
    if attention == "flash_attention_2":  # CUDA only, and the model is not there yet
        model.set_attn_implementation("sdpa")
    token_ids = torch.arange(1, 5, device=model.device)[None]
    logits = model.eval()(input_ids=token_ids, use_cache=False).logits[0].float()
    hidden = model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state[0]
    if attention == "flash_attention_2":
        model.set_attn_implementation(attention)
    targets = token_ids[0]
    found, _ = chunked_logprobs_and_entropy(
        hidden,
        head.weight,
        targets,
        temperature=1.0,
        chunk_tokens=len(targets),
        bias=head.bias,
        transform=transform,
    )
    difference = (found - logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]).abs().max()
    # The model itself rounds its logits to bf16 where its head is in bf16.
    rounding = 2**-7 * float(logits.abs().max()) if head.weight.dtype == torch.bfloat16 else 0.0
    if not difference <= HEAD_TOLERANCE + rounding:
        raise ConfigError(
            f"model.path: the logits of {name} are not cap tanh(scale (h W^T + b) / cap) with the scale and "
            f"cap of its config: log-probs of the chunked head differ by {float(difference):.3g} nats; such "
            "a model cannot be trained"
        )
