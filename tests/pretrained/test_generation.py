"""A trained model's generation settings: all end tokens, a padding token, sampling as in training."""

from typing import Any

import pytest
from transformers import GenerationConfig

from ceeh.pretrained.generation import generation_settings
from ceeh.starter.model import build_tokenizer


def settings(base: dict[str, Any], eos: int = 1, pad: int | None = None) -> GenerationConfig:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos)
    tokenizer.pad_token = None if pad is None else tokenizer.convert_ids_to_tokens(pad)
    return generation_settings(GenerationConfig(**base), tokenizer, temperature=0.6)


@pytest.mark.parametrize(
    ("stated", "tokenizers", "expected"),
    [
        (1, 1, 1),
        (None, 1, 1),
        ([5, 6], 6, [5, 6]),
        (5, 1, [5, 1]),  # a chat model whose turns end in another token than its texts
        ([5, 6], 1, [5, 6, 1]),
    ],
)
def test_every_end_token_of_base_and_tokenizer_ends_a_response(
    stated: Any, tokenizers: int, expected: Any
) -> None:
    assert settings({"eos_token_id": stated}, eos=tokenizers).eos_token_id == expected


@pytest.mark.parametrize(
    ("base", "tokenizers", "expected"), [(7, 8, 7), (None, 8, 8), (None, None, 5), (0, 8, 0)]
)
def test_padding_is_the_bases_the_tokenizers_or_the_end(
    base: int | None, tokenizers: int | None, expected: int
) -> None:
    found = settings({"eos_token_id": [5, 1], "pad_token_id": base}, pad=tokenizers)
    assert found.pad_token_id == expected


def test_sampling_is_the_rollouts_whatever_the_base_had() -> None:
    base = {"temperature": 0.9, "top_p": 0.95, "top_k": 20, "num_beams": 4, "max_length": 20}
    base |= {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "bos_token_id": 3}
    found = settings(base | {"eos_token_id": 1, "suppress_tokens": [4]})
    assert (found.do_sample, found.temperature, found.top_p, found.top_k) == (True, 0.6, 1.0, 0)
    assert found.bos_token_id == 3
    plain = GenerationConfig()
    for name in ("num_beams", "max_length", "repetition_penalty", "no_repeat_ngram_size"):
        assert getattr(found, name) == getattr(plain, name), name
    assert found.suppress_tokens is None
