"""Columns: what a row must hold, how answers are read, which rows are kept."""

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ceeh.data.sources.table import Table
from ceeh.errors import ConfigError
from tests.data.sources.conftest import COLUMNS, ROWS


def test_jsonl_accepts_a_byte_order_mark_windows_line_ends_and_blank_lines(write):
    path = write(b'\xef\xbb\xbf{"question": "\xc3\xa4?", "answer": "1"}\r', b"", b"  \r")
    assert [q.text for q in Table(path)] == ["ä?"]


def test_a_source_can_be_read_twice(write):
    source = Table(write(*ROWS), **COLUMNS)
    assert list(source) == list(source)


def test_the_hash_uid_depends_on_question_and_answer_alone(write):
    one = [q.uid for q in Table(write(*ROWS), **COLUMNS)]
    other = [
        q.uid for q in Table(write(*({**row, "level": 9} for row in reversed(ROWS))), **COLUMNS)
    ]
    assert one == other[::-1]
    assert len(set(one)) == 3
    changed = [q.uid for q in Table(write({**ROWS[0], "solution": "3"}), **COLUMNS)]
    assert changed[0] not in one


GOOD = {"question": "q", "answer": "1"}


def row(question: object = "r", answer: object = "1", **others: object) -> dict:
    return {"question": question, "answer": answer, **others}


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ([b"  "], {}, "rows.jsonl has no rows"),
        ([GOOD, b"[" * 100_000], {}, "line 2 is not valid JSON"),
        ([GOOD], {"question": "problem"}, "no column 'problem'; it has: question, answer;"),
        ([GOOD], {"uid": "id"}, "line 1 has no column 'id'; it has: question, answer;"),
        ([GOOD], {"metadata": ["level"]}, "line 1 has no column 'level'"),
        ([GOOD], {"where": {"level": 1}}, "line 1 has no column 'level'"),
        ([GOOD, {}, GOOD], {}, "line 2 has no column"),
        ([GOOD, row(answer=None)], {}, "line 2 has no answer in column 'answer'; fill"),
        ([GOOD, row(answer=" ")], {}, "line 2 has no answer in column 'answer'"),
        ([row(answer=[])], {}, "line 1 has no answer in column 'answer'"),
        ([row(answer=True)], {}, "text or a finite number, got bool True"),
        ([row(answer=[["1"]])], {}, "text or a finite number, got list"),
        (
            [row(answer=["1", "2"])],
            {},
            r"holds 2 answers, list \['1', '2'\]; set join_answers: true",
        ),
        (
            [GOOD | {"answer": "7 #### 8"}, row(answer="none")],
            {"answer_pattern": "#### (.+)"},
            r"line 2: answer_pattern '#### \(\.\+\)' finds no answer in column 'answer', got str 'none'",
        ),
        ([GOOD], {"answer_pattern": "( )?1"}, "finds no answer in column"),
        (
            [GOOD, row(answer="2")],
            {"where": {"answer": [3, 4], "question": "q"}},
            "none of 2 rows has 'answer' in 3, 4 and 'question' in 'q'",
        ),
        (
            [{"question": " ", "answer": "1"}],
            {},
            "line 1: column 'question' must hold the question",
        ),
        (
            [{"question": ["m"], "answer": "1"}],
            {},
            "question as text or as messages with role and content, got str 'm'",
        ),
        (
            [{"question": "\ud800", "answer": "1"}],
            {},
            "line 1 has half a surrogate pair in its text",
        ),
        (
            [GOOD | {"level": "\ud83d"}],
            {"metadata": ["level"]},
            "line 1 has half a surrogate pair in its metadata; remove",
        ),
        ([GOOD | {"id": None}], {"uid": "id"}, "line 1 has no uid in column 'id'; fill it in"),
        (
            [GOOD | {"id": 1}, {"question": "r", "answer": "1", "id": 1}],
            {"uid": "id"},
            "line 2 has the uid '1' of line 1; give each row a unique uid",
        ),
        (
            [GOOD, b"", GOOD],
            {},
            "line 3 has the question and answer of line 1; remove one, set deduplicate",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(write, lines, arguments, message):
    """More of them in tests/bad_input/test_data.py."""
    with pytest.raises(ConfigError, match=message) as caught:
        list(Table(write(*lines), **arguments))
    assert "\n" not in str(caught.value)


def test_integers_stored_as_floats_are_read_as_integers(write):
    answers = [27.0, "27.0", "-3.0", "2.50", "1.00", "x.0", 0.5]
    rows = [row(str(index), answer) for index, answer in enumerate(answers)]
    # No float prints as 1.00, which may be an amount of money.
    expected = ["27", "27", "-3", "2.50", "1.00", "x.0", "0.5"]
    assert [q.answer for q in Table(write(*rows))] == expected


def test_the_pattern_takes_group_1_of_the_last_match(write):
    steps = row(answer="3 * 4 = 12\n#### 12\n#### 1,234 \n")
    assert [q.answer for q in Table(write(steps), answer_pattern=r"####(.+)")] == ["1,234"]


def test_several_answers_are_joined_only_when_asked(write):
    several = row(answer=["$1$", 2.0, "3.0"])
    assert [q.answer for q in Table(write(several), join_answers=True)] == ["$1$, 2, 3"]


def test_where_keeps_the_rows_that_hold_one_of_its_values(write):
    path = write(*ROWS)
    some = Table(path, uid="id", where={"level": [2, 3], "solution": 0.5}, **COLUMNS)
    assert [q.uid for q in some] == ["b"]
    assert [q.uid for q in Table(path, uid="id", limit=2, where={"level": 2}, **COLUMNS)] == ["b"]


def test_equal_questions_are_left_out_and_counted_when_asked(write):
    rows = [("a  b", "1"), ("c", "1"), (" a b\n", "1"), ("a b", "2"), ("A b", "1"), ("a\tb", "3")]
    path = write(*({"question": question, "answer": answer} for question, answer in rows))
    with pytest.warns(UserWarning, match="dropped") as caught:
        kept = list(Table(path, deduplicate=True))
    assert [(q.text, q.answer) for q in kept] == [("a  b", "1"), ("c", "1"), ("A b", "1")]
    assert [str(w.message) for w in caught] == [
        f"{path}: dropped 3 of 6 rows that repeat an earlier question; 2 of them have a different"
        " answer than the first row, which is kept"
    ]
    assert len(list(Table(path))) == 6


def test_text_of_any_kind_is_kept_as_it_stands(write):
    texts = [
        "\x00",
        "a\x1b[2J",
        "\u202ereversed",
        "\ufeff1+1?",
        "1+1?" * 25_000,
        "\U0001f600",
        "<|im_end|>",
    ]
    rows = [{"question": text, "answer": "1"} for text in texts]
    assert [question.text for question in Table(write(*rows))] == texts


def test_a_number_is_read_as_it_was_written(tmp_path):
    columns = {
        "question": list("abcdef"),
        "answer": pa.array([0.1, 27, 1e-7, 2.5, 1e10, 3.0], pa.float32()),
        "exact": pa.array([decimal.Decimal("12.50")] * 6, pa.decimal128(10, 2)),
        "day": [datetime.date(2020, 1, 2)] * 6,
        "deep": [{"inner": [{"value": 0.2}]}] * 6,
    }
    deep = pa.struct([("inner", pa.list_(pa.struct([("value", pa.float32())])))])
    table = pa.table(columns | {"deep": pa.array(columns["deep"], deep)})
    pq.write_table(table, tmp_path / "rows.parquet")

    def answers(column):
        return [q.answer for q in Table(str(tmp_path / "rows.parquet"), answer=column)]

    assert answers("answer") == ["0.1", "27", "1e-07", "2.5", "10000000000", "3"]
    assert answers("exact") == ["12.50"] * 6
    assert answers("day") == ["2020-01-02"] * 6
    first = next(iter(Table(str(tmp_path / "rows.parquet"), metadata=["deep.inner"])))
    assert first.metadata == {"deep.inner": [{"value": 0.2}]}


VERL = {
    "prompt": [{"role": "system", "content": "sum"}, {"role": "user", "content": "1+1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 7, "question": "1 + 1?"},
}


def test_a_dotted_name_is_what_is_inside_a_column(write):
    maps = {"answer": "reward_model.ground_truth", "uid": "extra_info.index"}
    (found,) = Table(write(VERL), question="extra_info.question", **maps)
    assert (found.uid, found.text, found.answer) == ("7", "1 + 1?", "2")
    (plain,) = Table(write({"a.b": "q", "answer": "1"}), question="a.b")
    assert plain.text == "q"
    names = "prompt, reward_model.style, reward_model.ground_truth, extra_info.index"
    with pytest.raises(ConfigError, match=f"no column 'reward_model.truth'; it has: {names}"):
        list(Table(write(VERL), question="prompt", answer="reward_model.truth"))


def test_messages_are_a_question(write):
    turns = [*VERL["prompt"], {"role": "assistant", "content": "2"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "2+"}, {"text": "2?"}]}]
    rows = [VERL, {"prompt": turns + parts}, {"prompt": parts}]
    found = list(Table(write(*({"answer": "2"} | row for row in rows)), question="prompt"))
    assert [q.text for q in found] == ["1+1?", "1+1?\n\n2\n\n2+2?", "2+2?"]
    system, user = ("system", "sum"), ("user", "1+1?")
    later = (system, user, ("assistant", "2"), ("user", "2+2?"))
    # The user's message alone is a question like any other.
    assert [q.messages for q in found] == [(system, user), later, ()]
    other = VERL | {"prompt": [{"role": "system", "content": "other"}, VERL["prompt"][1]]}
    both = Table(write({"answer": "2"} | VERL, {"answer": "2"} | other), question="prompt")
    assert len({q.uid for q in both}) == 2, "the same question under another system message"
    with pytest.raises(ConfigError, match="must end with the user's, got one of 'assistant'; name"):
        list(Table(write({"prompt": turns, "answer": "2"}), question="prompt"))
    with pytest.raises(ConfigError, match=r"as messages with role and content, got dict \{'role'"):
        list(Table(write({"prompt": [{"role": "user"}], "answer": "2"}), question="prompt"))
