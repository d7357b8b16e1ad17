"""The starter model: a Qwen3 with fewer than half a million parameters and a symbol-level tokenizer."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ceeh.errors import ConfigError
from ceeh.starter.task import SYMBOLS, WORDS

MODEL_DIR = Path(__file__).parent / "weights"
PAD, EOS = "<pad>", "<eos>"
PAD_ID, EOS_ID = 0, 1


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per symbol and per word (with its trailing space); decoding is concatenation."""
    tokens = [PAD, EOS, *SYMBOLS, *(f"{word} " for word in WORDS)]
    tokenizer = Tokenizer(
        models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=PAD)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[a-z]+ |."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int, heads: int
) -> Qwen3ForCausalLM:
    """A Qwen3 with heads of size 32 (the smallest for vLLM's CPU attention) and tied embeddings."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=64,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
            bos_token_id=None,
            use_cache=False,
        )
    )


def write_untrained(folder: Path, *, seed: int, width: int, layers: int, heads: int) -> None:
    """A model folder with random weights; `heads` of size 32.

    Raises ConfigError where there is a model already.
    """
    if (folder / "tokenizer.json").exists():  # written last
        raise ConfigError(f"{folder} has a model; remove it, or name another folder")
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = build_model(tokenizer, width=width, layers=layers, heads=heads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters")
