"""Held-out responses: cut into tokens with their entropies, kept for the first questions, read back."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ceeh.data.batch import RolloutBatch, collate
from ceeh.evaluation import responses
from ceeh.evaluation.responses import cut_into_pieces, read_responses, response_table
from tests.groups import make_completion, make_prompt, make_scored


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte: characters of several bytes are several tokens. The last is the end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)} | {"<end>": len(letters)}
    model = Tokenizer(models.BPE(vocabulary, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<end>")


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_pieces_spell_the_response_and_keep_the_entropy(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    token_ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    decoded = tokenizer.decode(token_ids, skip_special_tokens=True)
    pieces = cut_into_pieces(decoded, token_ids, [0.5] * len(token_ids), tokenizer)
    assert pieces is not None
    assert "".join(piece for piece, _ in pieces) == decoded == text
    assert {nats for _, nats in pieces} == {0.5}


def test_a_character_of_several_tokens_has_their_mean_entropy(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    token_ids = tokenizer.encode("a四b")  # 1 + 3 + 1 bytes
    pieces = cut_into_pieces("a四b", token_ids, [0.1, 0.3, 0.6, 0.9, 0.2], tokenizer)
    assert pieces == [("a", 0.1), ("四", pytest.approx(0.6)), ("b", 0.2)]


def test_text_that_the_tokens_do_not_spell_is_not_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    assert cut_into_pieces("other", tokenizer.encode("text"), [0.0] * 4, tokenizer) is None


def batch(tokenizer: PreTrainedTokenizerFast, *indices: int) -> RolloutBatch:
    scored = []
    for index in indices:
        completions = [
            make_completion(text, tokenizer.encode(text)) for text in (f"{index}", f"{index}?!")
        ]
        prompt = make_prompt(f"q{index}", (1, 2), text="<q>", answer="7", level=3)
        scored.append(make_scored(prompt, completions, [1.0, 0.0]))
    return replace(collate(scored, pad_token_id=0), question_indices=indices)


def test_rows_belong_to_their_question_and_later_questions_are_left_out(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "QUESTIONS", 5)
    step = batch(tokenizer, 1, 7, 4)
    # Position t of row r holds r + t / 10; two prompt tokens come first.
    entropy = torch.arange(6)[:, None] + torch.arange(step.token_ids.shape[1]) / 10
    pq.write_table(response_table(step, entropy, tokenizer), tmp_path / "tuned.parquet")
    found = read_responses(tmp_path / "tuned.parquet")
    assert [(each.uid, each.sample, each.text, each.correct) for each in found] == [
        ("q1", 0, "1", True),
        ("q1", 1, "1?!", False),
        ("q4", 0, "4", True),
        ("q4", 1, "4?!", False),
    ]
    assert [each.entropy for each in found] == pytest.approx([0.2, 1.3, 4.2, 5.3])
    last = found[-1]
    assert (last.level, last.reference, last.tokens) == ("3", "7", 3)
    assert last.pieces is not None
    assert [piece for piece, _ in last.pieces] == ["4", "?", "!"]
    assert [nats for _, nats in last.pieces] == pytest.approx([5.2, 5.3, 5.4])


@pytest.mark.parametrize("content", [b"PAR1 half", b""])
def test_a_damaged_file_is_a_warning_and_no_examples(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "base.parquet").write_bytes(content)
    with pytest.warns(UserWarning, match="goes without them"):
        assert read_responses(tmp_path / "base.parquet") == []
