"""MathAnswer: which box, what is decided without a worker, one spelling for votes; `test_pairs` grades."""

import pytest

from ceeh.config.component import Component
from ceeh.data.verify.base import outcome_counts
from ceeh.data.verify.math_answer import MathAnswer, boxed_answer
from ceeh.errors import ConfigError
from ceeh.types import Finish, GradingOutcome
from tests.data.verify.scoring import (
    CORRECT,
    INCORRECT,
    NO_ANSWER,
    UNREADABLE,
    completion,
    group,
    prompt,
    verdict,
)


@pytest.mark.parametrize(
    ("answer", "responses"),
    [
        (
            "5",
            [
                r"so \boxed{5}",
                r"\boxed{4} no, \boxed{ 5 }.",
                r"\boxed {5}",
                r"\boxed{3}, \boxed{5}",
            ],
        ),
        (r"\frac{1}{\sqrt{2}}", [r"\boxed{\frac{1}{\sqrt{2}}}"]),
        (r"\left\{1, 2\right.", [r"\boxed{\left\{1, 2\right.} }"]),
        (r"a\\", [r"\boxed{a\\}"]),
        ("3", [r"\boxed{\boxed{3}}"]),
        ("2", [r"\boxed{1}</think> it is \boxed{2}"]),
        ("1", [r"<think>\boxed{1}"]),  # a block that never closed hides nothing
        (None, [r"<think>\boxed{1}</think> done", r"<think>a</think>\boxed{1}</think>"]),
        (None, [r"\boxed{1} or \boxed{2", r"\boxed{ }", r"\boxed{}", r"\boxed", "5", ""]),
    ],
)
def test_the_last_box_after_a_closed_thinking_block_is_the_answer(answer, responses):
    assert [boxed_answer(response) for response in responses] == [answer] * len(responses)


@pytest.mark.parametrize(
    ("answer", "box", "expected"),
    [
        ("3, 5", "5", INCORRECT),
        ("3, 5", "3, 5", CORRECT),
        ("1", "", NO_ANSWER),
        ("7", f"7{' ' * 2000}7", INCORRECT),  # over the limit
        ("7", "\u200b7", INCORRECT),  # an invisible character
        (r"\boxed{7}", "7", CORRECT),  # a solution as reference
        *(("", "7", UNREADABLE), ("$ $", "7", UNREADABLE), ("???", "???", UNREADABLE)),
        (r"a \mid b", r"a\mid b", CORRECT),  # equal text
        (r"a \mid b", r"b\mid a", INCORRECT),
        *(("a???", "a ???", CORRECT), ("a???", "a??", INCORRECT), ("a???", "x^2", INCORRECT)),
        ("5", r"5\text{ qwerts}", INCORRECT),  # not on the list of units
    ],
)
def test_numbers_and_text_are_graded_without_a_worker(answer, box, expected):
    verifier = MathAnswer()
    assert verdict(verifier, answer, f"\\boxed{{{box}}}") == expected
    assert verifier.pool.workers == []


def test_a_missing_reference_never_rewards_and_is_counted(mathematics):
    assert outcome_counts(mathematics([group("", r"\boxed{1}", r"\boxed{}")])) == dict.fromkeys(
        map(str, GradingOutcome), 0
    ) | {"unreadable": 1, "no_answer": 1}


def test_unreadable_references_are_found_in_order_without_a_worker(monkeypatch):
    verifier = MathAnswer()
    monkeypatch.setattr("ceeh.data.verify.pool.Worker", None)
    good = ["7", r"\frac12", r"\text{yes}", r"\sqrt2", r"\frac{0}{0}", "9^{9^{9^9}}", r"a \mid b"]
    bad = ["", "???", "x" * 2001, "7\u200b", "\ud800", "She sells 3 eggs. " * 12, "(" * 41]
    prompts = [prompt(text) for pair in zip(good, bad, strict=True) for text in pair]
    assert verifier.unreadable(prompts) == [prompt(text) for text in bad]


@pytest.mark.parametrize(
    ("answer", "boxes"),
    [
        (
            "1/2",
            [
                "0.5",
                "1/2",
                r"\frac12",
                r"\dfrac{1}{2}",
                "$.5$",
                "x = 0.5",
                r"x = \frac12\text{ cm}",
            ],
        ),
        ("27", ["27", "27.0", "27.", r"27^\circ", r"\$27", r"27\%"]),
        ("{1,2}", ["1,2", "2, 1", r"\{1,2\}", "2, 1, 1", "1 or 2", r"x=1,2"]),
        ("(1,2)", ["(1,2)", r"\left(1,\,2\right)"]),
        ("(1/2,1]", ["(0.5,1]", r"\frac12<x\le1", r"\{x\mid 0.5<x\le1\}"]),
        ("(2,1)", ["(2,1)"]),
        ("{-1,1}", [r"\pm 1"]),
        ("yes", [r"\text{Yes}", "yes", "YES"]),
        ("A", ["(A)", r"\text{A}"]),
        ("(-inf,0)", [r"(-\infty, 0)", "x<0"]),
        ("2", ["2,2"]),
        ("{}", [r"\{\}", r"\emptyset"]),
        ("3 mod 5", [r"x\equiv 3\pmod 5", r"8 \pmod{5}"]),
        ("1/2*pi*r", [r" \dfrac{ \pi }{ 2 }  r ", r"r\pi/2"]),
        ("1+x", [r"\left(x + 1\right)", "1+x", "y = x+1"]),
        (r"a \mid b", [r"a\mid b", r"a \mid b"]),
        (None, ["", "9" * 2001, "7\u200b"]),
    ],
)
def test_the_answer_for_a_vote_has_one_spelling(answer, boxes):
    for box in boxes:
        response = f"\\boxed{{1}} \\boxed{{{box}}}"
        assert MathAnswer().answer(completion(response)) == answer
        assert MathAnswer().answer(completion(response, Finish.LENGTH)) is None
    for response in ("7", r"\boxed{1"):
        assert MathAnswer().answer(completion(response)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds must be greater than 0, got 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds must be"),
        ({"stall_seconds": -1}, "stall_seconds must be greater than 0, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"memory_mib": 64}, "memory_mib must be at least 256"),
    ],
)
def test_math_answer_refuses_what_cannot_work(arguments, message):
    with pytest.raises(ConfigError, match=f"^verifier .*MathAnswer.: {message}"):
        Component("ceeh.data.verify.MathAnswer", arguments).build("verifier")
