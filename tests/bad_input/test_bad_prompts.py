"""Prompts that the model cannot take: dropped and counted, or refused with what is wrong."""

import json
from pathlib import Path

import pytest

from ceeh.data.prompts import PromptBuilder, load_prompts
from ceeh.data.sources.table import Table
from ceeh.errors import ConfigError
from ceeh.starter.model import build_tokenizer
from ceeh.types import Question
from tests.bad_input.conftest import Refused


def builder(limit: int = 32) -> PromptBuilder:
    return PromptBuilder(
        build_tokenizer(),
        max_prompt_tokens=limit,
        chat_template=False,
        system_prompt=None,
        instruction=None,
    )


def question(text: str, uid: str = "q", answer: str = "2") -> Question:
    return Question(uid=uid, text=text, answer=answer)


def test_endless_prompts_are_dropped_and_counted() -> None:
    endless = [question("1+1?" * 1000, "repeated"), question("9" * 2**20, "long")]
    with pytest.warns(
        UserWarning, match=r"dropped 2 of 3 prompts longer than .* \(32\); the longest has"
    ):
        kept = load_prompts([*endless, question("1+1?")], builder(), "prompts.train")
    assert [prompt.uid for prompt in kept] == ["q"]
    with pytest.raises(
        ConfigError, match=r"^prompts\.train: all 2 prompts are longer than .*; raise it"
    ):
        load_prompts(endless, builder(), "prompts.train")


@pytest.mark.parametrize("text", ["1+1?\x00", "\x1b[2J1+1?", "1+1?\u202e", "\U0001f600"])
def test_characters_that_the_model_cannot_see_are_warned_of(text: str) -> None:
    with pytest.warns(
        UserWarning, match="1 of 1 prompts have characters that the tokenizer does not know"
    ):
        (prompt,) = load_prompts([question(text)], builder(), "prompts.train")
    assert prompt.text == text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (question(""), r"prompts\.train: the question 'q' encodes to no token; remove it"),
        (question("\ud83d"), r"the text of a question must be valid UTF-8 text, got str '\\ud83d'"),
        (question("1", answer="\ud83d"), "the answer of a question must be valid UTF-8 text"),
        ("1+1?", r"a source must yield ceeh\.types\.Question, got str '1\+1\?'"),
        (None, "a source must yield .*, got NoneType None"),
    ],
)
def test_what_is_no_question_is_refused(asked: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_prompts((each for each in [asked]), builder(), "prompts.train")  # type: ignore[misc]


def test_a_source_that_gives_nothing_or_one_uid_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^prompts\.train has no questions; name a source"):
        load_prompts([], builder(), "prompts.train")
    with pytest.raises(ConfigError, match=r"^prompts\.train: the uid 'q' occurs twice"):
        load_prompts([question("1"), question("2")], builder(), "prompts.train")


def test_an_instruction_or_system_prompt_that_cannot_be_meant(refused: Refused) -> None:
    refused(["prompts.instruction='  '"], "prompts.instruction must be a text, or null for none")
    refused(["prompts.system_prompt=x"], "prompts.system_prompt needs prompts.chat_template: true")
    refused(["prompts.chat_template=true"], "prompts.chat_template is true", "has no chat template")
    refused(
        ["prompts.instruction=" + "again " * 300],
        "all 24 prompts are longer than prompts.max_prompt_tokens",
    )


def test_metadata_with_half_a_surrogate_pair_is_named_before_anything_is_sampled(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "1", "answer": "1", "level": "\ud83d"}))
    with pytest.raises(
        ConfigError, match="line 1 has half a surrogate pair in its metadata; remove"
    ):
        list(Table(str(file), metadata=["level"]))
