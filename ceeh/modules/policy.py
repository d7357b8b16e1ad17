"""The policy: a causal LM, full or with LoRA, that returns log-probs and entropy instead of logits."""

import copy
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from ceeh.config.settings import Model
from ceeh.modules.head import TokenObjective, chunked_logprobs_and_entropy, chunked_objective
from ceeh.modules.head_check import check_head, logit_transform
from ceeh.modules.lora import check_targets, nf4, with_adapter
from ceeh.modules.merged_weights import merged, saved_buffers
from ceeh.modules.packing import Packing, packs_rows
from ceeh.modules.saving import save_adapter, save_merged
from ceeh.pretrained.file_format import as_in_files
from ceeh.pretrained.loading import load_config, load_model
from ceeh.pretrained.shards import MAX_SHARD_BYTES
from ceeh.run.disk_space import storage_bytes
from ceeh.runtime.versions import tensors_digest


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
            model = with_adapter(model, settings, adapter)
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
        return as_in_files(
            self.causal_lm, chain(merged(self.causal_lm), saved_buffers(self.causal_lm))
        )

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
        return save_merged(
            self.causal_lm,
            folder,
            tokenizer,
            dtype=dtype or self.dtype,
            temperature=self.temperature,
            max_shard_bytes=max_shard_bytes,
        )

    def save_adapter(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, *, dtype: torch.dtype | None = None
    ) -> int:
        """Writes a PEFT folder: the adapter alone, as trained (fp32) or in `dtype`. Returns its bytes."""
        assert self.lora, "a policy without LoRA has no adapter"
        return save_adapter(self.model, folder, tokenizer, dtype=dtype)

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint: the weights (with LoRA the adapter's alone) and Adam's two moments."""
        trainable = storage_bytes(self.trainable)
        weights = trainable if self.lora else storage_bytes(self.state_dict().values())
        return weights + 2 * trainable


def flat_index(
    response_mask: Bool[Tensor, "R T"], response_index: Int[Tensor, " N"] | None
) -> Int[Tensor, " N"]:
    """`response_index`, or where the flattened mask is True. No row begins with a response token."""
    return response_mask.flatten().nonzero()[:, 0] if response_index is None else response_index
