"""The policy: a causal LM, full or with LoRA, that returns log-probs and entropy instead of logits."""

import copy
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ceeh.config.settings import Model
from ceeh.errors import ConfigError, first_line
from ceeh.modules.head import TokenObjective, chunked_logprobs_and_entropy, chunked_objective
from ceeh.pretrained.generation import generation_settings
from ceeh.pretrained.loading import load_config, load_model
from ceeh.pretrained.shards import MAX_SHARD_BYTES, write_shards
from ceeh.run.disk_space import storage_bytes

LOGIT_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "output_multiplier_scale",
)


class Policy(nn.Module):
    """The model at `path`, a folder or hub id, with fp32 master weights.

    `keep_reference` keeps the starting policy for the KL term: with LoRA the same model without its
    adapter, otherwise a second copy of the weights. `adapter` is a PEFT folder with a LoRA to start
    from. Raises ConfigError for a model whose logits are not exactly hidden @ head (soft caps, scales,
    bias).
    """

    def __init__(
        self,
        settings: Model,
        path: str,
        *,
        temperature: float,
        keep_reference: bool,
        adapter: Path | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.chunk_tokens = settings.head_chunk_tokens
        stored: Any = load_config(path, settings.trust_remote_code).dtype
        self.dtype: torch.dtype = stored or torch.float32
        model = load_model(
            path, trust_remote_code=settings.trust_remote_code, attention=settings.attention
        )
        refuse_transformed_logits(model)
        self.reference: list[PreTrainedModel] = []
        self.lora = settings.lora.rank > 0 or adapter is not None
        if self.lora:
            model = self._with_adapter(model, settings, adapter)
            if isinstance(model.get_output_embeddings(), LoraLayer):
                raise ConfigError(
                    "model.lora.target_modules must not name the output head: the chunked head reads its "
                    "weight without the adapter; remove it, or use ['all-linear']"
                )
        elif keep_reference:
            # In a list, so that it is neither trained, checkpointed nor sharded with the policy.
            self.reference.append(copy.deepcopy(model).eval().requires_grad_(False))
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        self.model = model.train()

    @staticmethod
    def _with_adapter(model: PreTrainedModel, settings: Model, adapter: Path | None):
        if adapter is not None:
            try:
                return PeftModel.from_pretrained(model, adapter, is_trainable=True)
            except (
                Exception
            ) as error:  # the files may hold anything, and their reader raise anything
                raise ConfigError(
                    f"'{adapter}' cannot be loaded over its base ({first_line(error)}); give the adapter "
                    "of that model, as peft's save_pretrained writes it"
                ) from error
        lora, targets = settings.lora, settings.lora.target_modules
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft's annotation is narrower than its code
            lora_dropout=lora.dropout,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            task_type="CAUSAL_LM",
        )
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"model.lora.target_modules does not fit the model, got {targets} ({first_line(error)}); "
                "name matrices of it, or ['all-linear']"
            ) from error

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The Hugging Face model inside a possible PEFT wrapper."""
        wrapped: Any = self.model
        return wrapped.get_base_model() if self.lora else wrapped

    @torch.no_grad()
    def forward(
        self, token_ids: Int[Tensor, "R T"], response_mask: Bool[Tensor, "R T"]
    ) -> tuple[Float[Tensor, "R T"], Float[Tensor, "R T"]]:
        """Log-prob of each response token and entropy (nats) of the distribution it was drawn from.

        Both are at the sampling temperature, zero outside `response_mask` and without gradient. Rows
        are padded on the right, so causal attention alone keeps padding out.
        """
        return self._evaluate(self.causal_lm, token_ids, response_mask)

    def loss(
        self,
        token_ids: Int[Tensor, "R T"],
        response_mask: Bool[Tensor, "R T"],
        objective: TokenObjective,
    ) -> Float[Tensor, ""]:
        """The sum of `objective` over all response tokens, chunk by chunk in the mask's order."""
        hidden, head, targets = self._predicting(self.causal_lm, token_ids, response_mask)
        return chunked_objective(
            hidden,
            head,
            targets,
            objective,
            temperature=self.temperature,
            chunk_tokens=self.chunk_tokens,
        )

    @torch.no_grad()
    def reference_logprobs(
        self, token_ids: Int[Tensor, "R T"], response_mask: Bool[Tensor, "R T"]
    ) -> Float[Tensor, "R T"]:
        """Log-probs under the starting policy."""
        if self.lora:
            wrapped: Any = self.model
            with wrapped.disable_adapter():
                return self._evaluate(self.causal_lm, token_ids, response_mask)[0]
        model: Any = self.reference[0]
        model.to(token_ids.device)
        return self._evaluate(model, token_ids, response_mask)[0]

    def _evaluate(
        self, model: PreTrainedModel, token_ids: Tensor, response_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropy = chunked_logprobs_and_entropy(
            *self._predicting(model, token_ids, response_mask),
            temperature=self.temperature,
            chunk_tokens=self.chunk_tokens,
        )
        zeros = torch.zeros(token_ids.shape, dtype=logprobs.dtype, device=token_ids.device)
        return tuple(zeros.masked_scatter(response_mask, each) for each in (logprobs, entropy))  # type: ignore[return-value]

    @staticmethod
    def _predicting(
        model: PreTrainedModel, token_ids: Tensor, response_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states that predict the N response tokens [N D], the head's weight, the tokens [N]."""
        hidden = model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
        predicting = response_mask[:, 1:]
        head: Any = model.get_output_embeddings()
        return hidden[:, :-1][predicting], head.weight, token_ids[:, 1:][predicting]

    @torch.no_grad()
    def engine_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its Hugging Face name, one at a time, the adapter added in fp32.

        The training weights are never merged in place: merging and unmerging drifts.
        """
        adapted = {}
        if self.lora:
            for name, layer in self.causal_lm.named_modules():
                if isinstance(layer, LoraLayer):
                    adapted[f"{name}.base_layer.weight"] = layer
        for name, weight in self.causal_lm.named_parameters():
            if ".lora_" in name:
                continue
            value = weight.detach()
            if name in adapted:
                value = value.float() + adapted[name].get_delta_weight("default").float()
            yield name.replace(".base_layer.", "."), value

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
        the weights; raises ConfigError for NaN or infinity in one.
        """
        dtype = dtype or self.dtype
        folder.mkdir(parents=True, exist_ok=True)
        # Training is in fp32; the folder's config names the dtype of its files.
        config = copy.deepcopy(self.causal_lm.config)
        config.dtype = dtype
        config.save_pretrained(folder)
        generation = generation_settings(
            self.causal_lm.generation_config, tokenizer, temperature=self.temperature
        )
        generation.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        weights = ((name, value.to(dtype)) for name, value in self.engine_weights())
        return write_shards(
            folder, chain(weights, self._saved_buffers()), max_shard_bytes=max_shard_bytes
        )

    def _saved_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Persistent buffers: not trained, but part of the model's files."""
        persistent = self.causal_lm.state_dict().keys()
        for name, value in self.causal_lm.named_buffers():
            if name in persistent:
                yield name.replace(".base_layer.", "."), value

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


def refuse_transformed_logits(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise ConfigError(
            f"model.path: {type(model).__name__} has no plain output head without bias"
        )
    for name in LOGIT_TRANSFORMS:
        if getattr(model.config, name, None) not in (None, 1.0):
            raise ConfigError(
                f"model.path: {type(model).__name__} rescales its logits ({name}); "
                "the chunked head computes hidden @ head and would train on other log-probs"
            )
