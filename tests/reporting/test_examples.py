"""Responses side by side: always of one question, chosen as the page says, cut and colored as it says."""

from dataclasses import replace

import pytest

from ceeh.evaluation.responses import Response
from ceeh.reporting import examples
from ceeh.reporting.examples import sections, shade, spans

ONE = Response(
    index=0,
    uid="q0",
    level="1",
    question="question of q0",
    reference="7",
    sample=0,
    text="so 7",
    tokens=4,
    truncated=False,
    correct=True,
    entropy=0.5,
    pieces=None,
)


def responses(*rows: tuple[str, int, bool, int]) -> list[Response]:
    """Of (uid, sample, correct, tokens); the text names the question and the sample."""
    return [
        replace(
            ONE,
            uid=uid,
            question=f"question of {uid}",
            sample=sample,
            text=f"{uid} {sample}",
            correct=correct,
            tokens=tokens,
        )
        for uid, sample, correct, tokens in rows
    ]


BASE = responses(("q0", 0, True, 9), ("q0", 1, False, 5), ("q1", 0, True, 4), ("q2", 0, True, 4))
TUNED = responses(("q2", 0, False, 3), ("q0", 0, True, 2), ("q0", 1, True, 8), ("q0", 2, False, 8))
"""q1 was not asked; the questions are in another order."""


def texts(section: examples.Section) -> list[list[str]]:
    return [[side.spans[0].text for side in each.sides] for each in section.examples]


def test_sides_belong_to_the_question_above_them_and_are_the_last_samples() -> None:
    across, *_ = sections({"base": BASE, "tuned": TUNED}, {"q0": True, "q2": False})
    assert texts(across) == [["q0 1", "q0 2"], ["q2 0", "q2 0"]]
    assert [each.question for each in across.examples] == ["question of q0", "question of q2"]
    assert [each.kinds for each in across.examples] == [
        ["level 1", "hard", "both wrong"],
        ["level 1", "easy", "lost"],
    ]


def test_shortest_and_longest_are_correct_responses_of_one_question() -> None:
    _, extremes, _ = sections({"base": BASE, "tuned": TUNED}, {})
    assert texts(extremes) == [["q0 0", "q0 1"]]  # 2 and 8 tokens; q0 2 is as long, but wrong
    assert [side.label for side in extremes.examples[0].sides] == ["shortest", "longest"]


def test_right_and_wrong_are_the_first_of_their_kind() -> None:
    *_, both = sections({"tuned": TUNED}, {})
    assert texts(both) == [["q0 0", "q0 2"]]
    assert [side.verdict for side in both.examples[0].sides] == ["right", "wrong"]


def test_without_responses_of_one_policy_there_are_no_sections() -> None:
    assert sections({"base": BASE, "tuned": []}, {}) == []
    assert sections({}, {}) == []


def test_a_page_holds_a_bounded_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "PAGE_PIECES", 25)
    many = responses(*((f"q{number}", 0, True, 10) for number in range(9)))
    (across,) = sections({"a": many}, {})
    assert len(across.examples) == 2
    assert across.note.startswith("The first 2 questions")


def test_a_long_response_loses_its_middle_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "SHOWN_PIECES", 4)
    long = replace(ONE, pieces=[(f"{number} ", 0.0) for number in range(10)])
    assert "".join(span.text for span in spans(long)) == "0 1  [... 6 tokens ...] 8 9 "


def test_colors_follow_the_entropy_of_each_token() -> None:
    # Edges 0.05, 0.2, 0.5 and 1: neighbors without color are one span, colored tokens each their own.
    pieces = [("a", 0.0), ("b", 0.049), ("c", 0.05), ("d", 0.5), ("e", 3.0), ("f", 0.0)]
    found = spans(replace(ONE, pieces=pieces))
    assert [(span.text, span.shade, span.title) for span in found] == [
        ("ab", 0, ""),
        ("c", 1, "0.05"),
        ("d", 3, "0.50"),
        ("e", 4, "3.00"),
        ("f", 0, ""),
    ]
    assert [shade(nats) for nats in (0.19, 0.2, 0.99, 1.0)] == [1, 2, 3, 4]
