"""The chunked head beside a model's own: its transform from the model's config, and whether both agree."""

import torch
from torch import nn
from transformers import PreTrainedModel

from ceeh.errors import ConfigError
from ceeh.modules.head import chunked_logprobs_and_entropy
from ceeh.modules.logits import LogitTransform

HEAD_TOLERANCE = 1e-3
"""Nats, both sides in fp32."""


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
