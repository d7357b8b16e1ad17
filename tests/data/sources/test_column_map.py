"""Columns: what a row must hold, how answers are read, which rows are kept."""

import pytest

from ceeh.data.sources.table import Table
from ceeh.errors import ConfigError
from tests.data.tables import COLUMNS, ROWS


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


def test_a_list_of_one_answer_is_that_answer(write):
    assert [q.answer for q in Table(write({"question": "?", "answer": ["7"]}))] == ["7"]


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
        ([row(question=" ")], {}, "line 1: column 'question' must hold the question"),
        ([row(question="\ud800")], {}, "line 1 has half a surrogate pair in its text"),
        ([row(level="\ud83d")], {"metadata": ["level"]}, "half a surrogate pair in its metadata"),
        ([row(id=None)], {"uid": "id"}, "line 1 has no uid in column 'id'; fill it in"),
        ([row("q", id=1), row(id=1)], {"uid": "id"}, "line 2 has the uid '1' of line 1; give each"),
        ([GOOD, b"", GOOD], {}, "line 3 has the question and answer of line 1; .* deduplicate"),
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


def test_text_of_any_kind_is_kept_unchanged(write):
    texts = ["\x00", "a\x1b[2J", "\u202ereversed", "\ufeff1+1?", "1+1?" * 25_000, "\U0001f600"]
    assert [q.text for q in Table(write(*(row(text) for text in texts)))] == texts
