"""Prompts: encoding, limits and uids; the stream's order, shards and exact resumption."""

import io
import random
from collections import Counter
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from ceeh.config.settings import Prompts
from ceeh.data.prompts import PromptBuilder, PromptStream, balanced_shares, load_prompts
from ceeh.errors import ConfigError
from ceeh.starter.model import build_tokenizer
from ceeh.types import Question
from tests.groups import make_prompt

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


def prompts(count):
    return [make_prompt(f"u{i}") for i in range(count)]


def stream(count=10, per_step=4, *, seed=0, rank=0, world_size=1, balanced_by=None):
    return PromptStream(
        prompts(count),
        seed=seed,
        prompts_per_step=per_step,
        rank=rank,
        world_size=world_size,
        balanced_by=balanced_by,
    )


def flat(steps):
    return [uid for step in steps for uid in step]


def uids(source, steps):
    return [[prompt.uid for prompt in source.next_step()] for _ in range(steps)]


@pytest.mark.parametrize(("count", "per_step"), [(10, 4), (7, 7), (7, 6), (5, 3), (1, 1), (12, 4)])
def test_no_prompt_comes_twice_in_a_step_and_all_come_equally_often(count, per_step):
    steps = uids(stream(count, per_step), 10 * count)
    assert all(len(set(step)) == per_step for step in steps)
    # count * per_step prompts in `count` steps are exactly per_step epochs
    for begin in range(0, len(steps), count):
        seen = Counter(uid for step in steps[begin : begin + count] for uid in step)
        assert set(seen.values()) == {per_step}


def test_an_epoch_is_drawn_without_replacement_and_differs_from_the_next():
    drawn = uids(stream(64, 8), 16)
    first, second = [flat(drawn[begin : begin + 8]) for begin in (0, 8)]
    assert sorted(first) == sorted(second) == sorted(p.uid for p in prompts(64))
    assert first != second
    assert first != [p.uid for p in prompts(64)]


def test_a_step_across_the_end_of_an_epoch_defers_prompts_it_already_holds():
    # 3 prompts, 2 a step: step 2 takes the last of epoch 0 and the first *other* one of epoch 1;
    # over the first three steps each prompt comes twice, whichever the permutations are.
    for seed in range(20):
        steps = uids(stream(3, 2, seed=seed), 3)
        assert all(len(set(step)) == 2 for step in steps)
        assert set(Counter(flat(steps)).values()) == {2}


def test_the_order_depends_on_the_seed_and_not_on_rng_state():
    random.seed(1)
    one = uids(stream(), 9)
    random.seed(2)  # whose state the type checker of the tests moves, so only the order is compared
    state = torch.get_rng_state()
    assert uids(stream(), 9) == one
    assert torch.equal(torch.get_rng_state(), state)
    assert uids(stream(seed=1), 9) != one


def test_the_order_does_not_depend_on_the_order_of_the_file():
    other = PromptStream(prompts(10)[::-1], seed=0, prompts_per_step=4)
    assert uids(other, 9) == uids(stream(), 9)


def test_the_order_is_the_same_in_every_version():
    assert uids(stream(5, 5), 2) == [["u2", "u1", "u4", "u3", "u0"], ["u0", "u2", "u4", "u3", "u1"]]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_take_disjoint_shares_of_the_same_step(world_size):
    whole = uids(stream(), 12)
    shares = [uids(stream(rank=rank, world_size=world_size), 12) for rank in range(world_size)]
    for step, *parts in zip(whole, *shares, strict=True):
        assert all(len(part) == 4 // world_size for part in parts)
        assert sorted(flat(parts)) == sorted(step)


@pytest.mark.parametrize(
    ("block", "shares"),
    [
        # 9 and 8 go first, to one rank each; then 2 where 8 is, then 1: sums of 10.
        (4, [[0, 1], [2, 3]]),
        # 9 and 1; then 8 goes where 1 is, and 2 where 9 is: 11 and 9.
        (2, [[0, 3], [1, 2]]),
    ],
)
def test_the_longest_question_goes_to_the_rank_with_the_least_so_far(block, shares):
    assert balanced_shares([9.0, 1.0, 8.0, 2.0], 2, block=block) == shares


@pytest.mark.parametrize("length", [0.0, 0.1])
def test_questions_of_equal_length_are_shared_as_without_balance(length):
    shares = balanced_shares([length] * 24, 4, block=12)
    assert shares == [list(range(rank, 24, 4)) for rank in range(4)]


def test_balanced_ranks_have_equal_counts_in_each_block_and_nearer_sums():
    generator = random.Random(0)
    spread = {"balanced": 0.0, "every w-th": 0.0}
    for _ in range(50):
        lengths = [generator.lognormvariate(0, 1) for _ in range(64)]
        shares = balanced_shares(lengths, 8, block=32)
        assert sorted(flat(shares)) == list(range(64))
        for share in shares:
            assert share == sorted(share)
            assert sum(place < 32 for place in share) == 4
        plain = [list(range(rank, 64, 8)) for rank in range(8)]
        for name, given in (("balanced", shares), ("every w-th", plain)):
            sums = [sum(lengths[place] for place in share) for share in given]
            spread[name] += max(sums) / fmean(sums) - 1
    assert spread["balanced"] < spread["every w-th"] / 4


def as_lists(state):
    return state | {"lengths": {name: each.tolist() for name, each in state["lengths"].items()}}


def saved(state):
    """As a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def visit(ranks, step):
    """A step of all ranks, whose responses' lengths all of them observe; the uids that each rank got."""
    got = [[prompt.uid for prompt in rank.next_step()] for rank in ranks]
    lengths = [(uid, 10.0 * int(uid[1:]) + step) for share in got for uid in share]
    for rank in ranks:
        rank.observe(lengths)
    return got


def test_balanced_ranks_move_questions_only_within_a_minibatch():
    whole = uids(stream(16, 8), 8)
    ranks = [stream(16, 8, rank=rank, world_size=2, balanced_by=4) for rank in range(2)]
    plain = [stream(16, 8, rank=rank, world_size=2) for rank in range(2)]
    moved = []
    for step, drawn in enumerate(whole):
        got, given = visit(ranks, step), [[p.uid for p in rank.next_step()] for rank in plain]
        moved.append(got != given)
        for first in (0, 2):  # of a rank's four, two are in each minibatch of four
            minibatch = flat(share[first : first + 2] for share in got)
            assert sorted(minibatch) == sorted(drawn[2 * first : 2 * first + 4])
            for share in got:
                assert sorted(share[first : first + 2], key=drawn.index) == share[first : first + 2]
        assert as_lists(ranks[0].state_dict()) == as_lists(ranks[1].state_dict())
    assert moved[:2] == [False, False], "no question of the first epoch had been seen"
    assert all(moved[2:])


def test_balance_does_not_affect_one_process():
    one, plain = stream(7, 6, balanced_by=2), stream(7, 6)
    for _ in range(5):
        one.observe([(prompt.uid, 5.0) for prompt in one.next_step()])
        plain.next_step()
    assert as_lists(one.state_dict()) == as_lists(plain.state_dict())


@pytest.mark.parametrize("cut", range(6))
def test_resumed_balanced_ranks_equal_the_uninterrupted_ones(cut):
    def build():
        return [stream(8, 6, rank=rank, world_size=2, balanced_by=6) for rank in range(2)]

    ranks = build()
    whole = [visit(ranks, step) for step in range(6)]
    before = build()
    for step in range(cut):
        visit(before, step)
    state = saved(before[0].state_dict())
    resumed = build()
    for rank in resumed:
        rank.load_state_dict(state)
    assert [visit(resumed, step) for step in range(cut, 6)] == whole[cut:]


@pytest.mark.parametrize("cut", range(13))
def test_a_resumed_stream_equals_the_uninterrupted_one(cut):
    whole = uids(stream(7, 6), 13)
    before = stream(7, 6)
    assert uids(before, cut) == whole[:cut]
    state = saved(before.state_dict())
    uids(before, 5)  # the state must not follow the stream it was taken from
    resumed = stream(7, 6)
    uids(resumed, 3)
    resumed.load_state_dict(state)
    assert uids(resumed, 13 - cut) == whole[cut:]


def test_every_rank_has_the_state_that_rank_0_writes():
    ranks = [stream(7, 6, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(5):
        for one in ranks:
            one.next_step()
        assert as_lists(ranks[0].state_dict()) == as_lists(ranks[1].state_dict())


def test_another_data_set_or_seed_is_refused_on_resume():
    state = stream().state_dict()
    with pytest.raises(ConfigError, match=r"prompts.train is not the data set of the checkpoint"):
        stream(11).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"seed is 1, but the checkpoint's .* drawn with 0"):
        stream(seed=1).load_state_dict(state)


@pytest.mark.parametrize("change", [{"token_ids": (1, 2)}, {"answer": "2"}])
def test_other_prompts_or_answers_to_the_same_questions_are_refused_on_resume(change):
    state = stream().state_dict()
    changed = [replace(prompt, **change) for prompt in prompts(10)]
    with pytest.raises(ConfigError, match=r"their prompts or answers are not; resume with .* date"):
        PromptStream(changed, seed=0, prompts_per_step=4).load_state_dict(state)


def test_a_probe_question_whose_answer_changed_is_noticed_on_resume():
    trained, probe = prompts(10)[:8], prompts(10)[8:]
    whole = PromptStream(trained, seed=0, prompts_per_step=4, probe=probe)
    changed = [probe[0], replace(probe[1], answer="2")]
    other = PromptStream(trained, seed=0, prompts_per_step=4, probe=changed)
    with pytest.raises(ConfigError, match=r"their prompts or answers are not"):
        other.load_state_dict(whole.state_dict())
    assert {uid for _ in range(4) for uid in (p.uid for p in whole.next_step())} == {
        p.uid for p in trained
    }
