"""Policies over small models, two rows for them, and log-probs and entropy from full logits."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from ceeh.config.settings import LoRA, Model
from ceeh.modules.policy import Policy

IDS = torch.tensor([[5, 6, 7, 8, 9, 0], [4, 3, 2, 1, 5, 6]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()
LORA = Model(lora=LoRA(rank=2, alpha=4.0))


def make(model_dir: Path, settings: Model, *, keep_reference: bool = True) -> Policy:
    torch.manual_seed(0)
    return Policy(settings, str(model_dir), temperature=0.7, keep_reference=keep_reference)


def reference(
    model_dir: Path, temperature: float, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Full logits, by default in float64, one position at a time."""
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=dtype, attn_implementation="eager"
    )
    logits = model(input_ids=IDS).logits.detach() / temperature
    logprobs, entropy = torch.zeros(2, IDS.shape[1]), torch.zeros(2, IDS.shape[1])
    for row, position in MASK.nonzero().tolist():
        distribution = logits[row, position - 1].log_softmax(-1)
        logprobs[row, position] = distribution[IDS[row, position]]
        entropy[row, position] = -(distribution.exp() * distribution).sum()
    return logprobs, entropy


def tiny(config: type, folder: Path, **settings: object) -> Path:
    """A random model whose every weight, biases included, is away from 0."""
    base = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**base | settings))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder
