"""Prompts: encoding, chat templates, limits and uids."""

from dataclasses import replace

import pytest
from tokenizers.processors import TemplateProcessing

from ceeh.config.settings import Prompts
from ceeh.data.prompts import PromptBuilder, load_prompts
from ceeh.errors import ConfigError
from ceeh.starter.model import build_tokenizer
from ceeh.types import Question

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{% if m.content == '?' %}"
    "{{ raise_exception('no system role') }}{% endif %}read {% endif %}{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}so {% endif %}"
)


def builder(*, template=None, **settings):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return PromptBuilder(tokenizer, Prompts(**settings))


def question(uid="a", text="473+8?", **metadata):
    return Question(uid=uid, text=text, answer="481", metadata=metadata)


def test_a_plain_prompt_is_the_text_unchanged():
    make = builder()
    prompt = make(question(level=1))
    assert make.tokenizer.convert_ids_to_tokens(list(prompt.token_ids)) == list("473+8?")
    assert (prompt.uid, prompt.text, prompt.answer) == ("a", "473+8?", "481")
    assert prompt.metadata == {"level": 1}


def test_a_chat_prompt_goes_through_the_template_up_to_the_response():
    plain = builder(chat_template=True, template=TEMPLATE)
    assert plain.tokenizer.decode(plain(question()).token_ids) == "473+8?;so "
    system = builder(chat_template=True, template=TEMPLATE, system_prompt="1+1")
    prompt = system(question())
    assert system.tokenizer.decode(prompt.token_ids) == "read 1+1;473+8?;so "
    assert prompt.text == "473+8?"


def test_the_instruction_is_a_paragraph_after_the_question():
    plain = builder(instruction="1+1?")
    prompt = plain(question(text="473+8? \n"))
    expected = plain.tokenizer("473+8?\n\n1+1?").input_ids
    assert list(prompt.token_ids) == expected
    assert prompt.text == "473+8? \n"  # the question, as logs and reward functions know it
    with_system = builder(
        chat_template=True, template=TEMPLATE, system_prompt="2+2", instruction="1+1?"
    )
    shown = "read 2+2;473+8?\n\n1+1?;so "
    assert list(with_system(question()).token_ids) == with_system.tokenizer(shown).input_ids


CONVERSATION = (("system", "2+2"), ("user", "1+1?"), ("assistant", "2"), ("user", "473+8?"))


def test_the_messages_of_a_question_are_its_prompt(recwarn):
    make = builder(chat_template=True, template=TEMPLATE, system_prompt="9+9", instruction="6?")
    prompt = make(replace(question(), messages=CONVERSATION))
    # Its own system message comes before the configuration's; the instruction ends the last message.
    shown = "read 2+2;1+1?;2;473+8?\n\n6?;so "
    assert list(prompt.token_ids) == make.tokenizer(shown).input_ids
    one = replace(question(), messages=(("user", "1+1?"),))
    assert make(one).token_ids == make(question(text="1+1?")).token_ids
    assert builder()(one).token_ids == builder()(question(text="1+1?")).token_ids
    with pytest.raises(
        ConfigError, match=r"'a' has 4 messages, .* set prompts.chat_template: true"
    ):
        builder()(replace(question(), messages=CONVERSATION))


@pytest.mark.parametrize(
    "messages", [(("user", "a"), ("assistant", "b")), (("user", " "),), (("user", "\ud83d"),)]
)
def test_messages_that_do_not_ask_are_refused(messages):
    with pytest.raises(ConfigError, match=r"^prompts.train: the messages of 'a' must"):
        load_prompts([replace(question(), messages=messages)], builder(), "prompts.train")


def test_template_arguments_and_the_date_reach_the_template():
    template = (
        "{{ strftime_now('%d') }}{% if think %}7{% endif %}{{ messages[0].content }}"
        "{% if add_generation_prompt %}so {% endif %}"
    )

    def shown(**given):
        make = builder(chat_template=True, template=template, **given)
        return make.tokenizer.decode(make(question()).token_ids)

    assert shown(date="2026-11-03") == "03473+8?so "
    assert shown(date="2026-11-03", chat_template_args={"think": True}) == "037473+8?so "
    with pytest.raises(ConfigError, match=r"prompts.date must be a day as YYYY-MM-DD, got '3 Nov'"):
        shown(date="3 Nov")
    with pytest.raises(ConfigError, match=r"chat_template_args needs prompts.chat_template: true"):
        builder(chat_template_args={"think": True})


def test_a_prompt_that_ends_in_the_end_token_is_refused():
    make = builder()
    end = make.tokenizer.eos_token
    make.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, make.tokenizer.eos_token_id)]
    )
    with pytest.raises(ConfigError, match=r"prompt of 'a' ends in the end token .* add_eos_token"):
        make(question())
    closed = builder(chat_template=True, template="{{ messages[0].content }}" + end)
    with pytest.raises(ConfigError, match=r"ends in the end token .* generation prompt"):
        closed(question())


def test_incompatible_templates_and_system_prompts_are_refused():
    with pytest.raises(
        ConfigError, match=r"prompts.system_prompt needs prompts.chat_template: true"
    ):
        builder(system_prompt="1")
    with pytest.raises(ConfigError, match=r"prompts.chat_template is true, but .* set it to false"):
        builder(chat_template=True)
    make = builder(chat_template=True, template=TEMPLATE, system_prompt="?")
    with pytest.raises(
        ConfigError, match=r"rejects the messages \(no system role\).*system_prompt: null"
    ):
        make(question())


def test_long_prompts_are_dropped_with_one_warning():
    source = [question("a"), question("b", "1" * 2**20), question("c", "1" * 7), question("d")]
    with pytest.warns(UserWarning, match="dropped") as caught:
        prompts = load_prompts(source, builder(max_prompt_tokens=6), "prompts.train")
    assert [prompt.uid for prompt in prompts] == ["a", "d"]
    assert [str(w.message) for w in caught] == [
        "prompts.train: dropped 2 of 4 prompts longer than prompts.max_prompt_tokens (6);"
        " the longest has 1048576 tokens"
    ]


@pytest.mark.parametrize(
    "text", ["1 apple?", "1+1?\x00", "\x1b[2J1+1?", "1+1?\u202e", "\U0001f600"]
)
def test_characters_unknown_to_the_tokenizer_are_reported(text):
    with pytest.warns(
        UserWarning, match=r"1 of 2 prompts have characters .* know, the first is 'b'"
    ):
        prompts = load_prompts([question(), question("b", text)], builder(), "prompts.train")
    assert prompts[1].text == text


def broken():
    yield question()
    raise ConfigError("rows.jsonl, line 2 is not valid JSON")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "^prompts.held_out has no questions"),
        ([question(), question()], "^prompts.held_out: the uid 'a' occurs twice"),
        (
            [question(), question("b", "")],
            "^prompts.held_out: the question 'b' encodes to no token",
        ),
        (
            [question("a", "1" * 20), question("b", "1" * 15)],
            r"^prompts.held_out: all 2 prompts are longer than prompts.max_prompt_tokens \(9\);"
            " raise it to at least 15",
        ),
        (broken(), "^prompts.held_out: rows.jsonl, line 2 is not valid JSON"),
        (
            [question(text="\ud83d")],
            r"the text of a question must be valid UTF-8 text, got str '\\ud83d'",
        ),
        (
            [replace(question(), answer="\ud83d")],
            "the answer of a question must be valid UTF-8 text",
        ),
        (iter(["1+1?"]), r"a source must yield ceeh\.types\.Question, got str '1\+1\?'"),
        (iter([None]), "a source must yield .*, got NoneType None"),
    ],
)
def test_unusable_questions_are_refused_with_the_place(source, message):
    with pytest.raises(ConfigError, match=message):
        load_prompts(source, builder(max_prompt_tokens=9), "prompts.held_out")
