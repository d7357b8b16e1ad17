"""Demonstrations as batches: end tokens, what carries loss, padding, order and resume."""

import re
from pathlib import Path

import pytest
import torch

from ceeh.config.settings import Prompts
from ceeh.data.examples import (
    ExampleBuilder,
    ExampleLoader,
    HeldOutExamples,
    collate_examples,
    load_examples,
)
from ceeh.data.sources import Table
from ceeh.data.stream import PromptStream
from ceeh.errors import ConfigError
from ceeh.starter.model import EOS_ID, PAD_ID, build_tokenizer
from ceeh.types import Demonstration, Example, Question

BUILDER = ExampleBuilder(build_tokenizer(), Prompts())
TOKENIZER = BUILDER.tokenizer


def demonstration(text: str, response: str) -> Demonstration:
    return Demonstration(uid=text, text=text, answer="0", response=response)


def examples(count: int) -> list[Example]:
    questions = [demonstration(f"{n}+1?", "so " + "7" * (n % 5 + 1)) for n in range(count)]
    return load_examples(questions, BUILDER, "prompts.train", max_response_tokens=16)


def test_a_response_ends_with_the_end_token_which_is_learned() -> None:
    example = BUILDER(demonstration("1+1?", "so 02"))
    assert example.token_ids == tuple(TOKENIZER("1+1?").input_ids)
    assert TOKENIZER.decode(example.response_ids[:-1]) == "so 02"
    assert example.response_ids[-1] == EOS_ID


def test_prompts_and_padding_carry_no_loss() -> None:
    pair = [BUILDER(demonstration("12+1?", "so 13")), BUILDER(demonstration("1?", "so 1"))]
    batch = collate_examples(pair, pad_token_id=PAD_ID)
    # 5 prompt tokens, `so `, 1, 3 and the end; 2 prompt tokens, `so `, 1 and the end.
    assert batch.totals.tolist() == [9, 5]
    assert batch.response_mask.int().tolist() == [[0] * 5 + [1] * 4, [0, 0, 1, 1, 1] + [0] * 4]
    assert batch.token_ids[1, 5:].tolist() == [PAD_ID] * 4


def test_a_question_without_a_response_is_refused_with_the_cure() -> None:
    plain = [Question(uid="a", text="1?", answer="1")]
    with pytest.raises(ConfigError, match=r"prompts.train: .*no response.*init_args.response=COL"):
        load_examples(plain, BUILDER, "prompts.train", max_response_tokens=9)


def test_responses_over_the_limit_are_dropped_and_counted() -> None:
    questions = [demonstration("1?", "so 1"), demonstration("2?", "so 22222")]
    with pytest.warns(UserWarning, match=re.escape("1 of 2 demonstrations are longer")):
        (kept,) = load_examples(questions, BUILDER, "prompts.train", max_response_tokens=3)
    assert kept.uid == "1?"
    with pytest.raises(ConfigError, match="the longest has 7 tokens; raise it"):
        load_examples(questions, BUILDER, "prompts.train", max_response_tokens=2)


def loader(steps: int = 6) -> ExampleLoader:
    stream = PromptStream(examples(7), seed=0, prompts_per_step=3)
    return ExampleLoader(stream, steps=steps, pad_token_id=PAD_ID)


def test_an_epoch_shows_each_example_once_and_a_resumed_loader_goes_on() -> None:
    whole = [batch.token_ids for batch in loader()]
    first, second = loader(), loader()
    iterator = iter(first)
    for _ in range(2):
        next(iterator)
    second.load_state_dict(first.state_dict())
    rest = [batch.token_ids for batch in second]
    assert len(rest) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_every_held_out_example_is_in_one_batch_of_one_rank() -> None:
    rows = []
    for rank in range(2):
        share = HeldOutExamples(examples(7), size=2, pad_token_id=PAD_ID, rank=rank, world_size=2)
        batches = list(share)
        assert len(share) == len(batches) == 2
        rows += [
            row[:total].tolist()
            for batch in batches
            for row, total in zip(batch.token_ids, batch.totals, strict=True)
        ]
    expected = [list(each.token_ids + each.response_ids) for each in examples(7)]
    assert sorted(rows) == sorted(expected)


def test_a_table_gives_the_responses_of_its_column(tmp_path: Path) -> None:
    file = tmp_path / "worked.jsonl"
    file.write_text('{"question": "1+1?", "answer": "2", "how": "so 2"}\n')
    (question,) = Table(str(file), response="how")
    assert isinstance(question, Demonstration)
    assert question.response == "so 2"
    file.write_text('{"question": "1+1?", "answer": "2", "how": ""}\n')
    with pytest.raises(ConfigError, match="line 1: column 'how' must hold the response"):
        list(Table(str(file), response="how"))
