"""MathAnswer: each line of its docstring, through the workers."""

import pytest

from ceeh.config.component import Component
from ceeh.data.verify.base import outcome_counts
from ceeh.data.verify.math_answer import MathAnswer
from ceeh.errors import ConfigError
from ceeh.types import Finish, Outcome
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
    ("answer", "response", "expected"),
    [
        ("5", r"\boxed{3}, \boxed{5}", CORRECT),  # the last box wins
        ("3, 5", r"\boxed{3}, \boxed{5}", INCORRECT),
        ("3, 5", r"\boxed{3, 5}", CORRECT),
        ("3", r"\boxed{\boxed{3}}", CORRECT),
        ("2", r"<think>\boxed{1}</think> \boxed{2}", CORRECT),
        ("1", r"<think>\boxed{1}</think> that is it", NO_ANSWER),
        ("1", r"<think>\boxed{1}", CORRECT),  # a block that never closed hides nothing
        ("1", r"\boxed{}", NO_ANSWER),
        ("1", r"\boxed{1", NO_ANSWER),
        ("1", "1", NO_ANSWER),
        ("1", "", NO_ANSWER),
        ("7", f"\\boxed{{7{' ' * 2000}7}}", INCORRECT),  # over the limit
        ("7", "\\boxed{\u200b7}", INCORRECT),  # an invisible character
        (r"\boxed{7}", r"\boxed{7}", CORRECT),  # a solution as reference
        ("", r"\boxed{7}", UNREADABLE),
        ("$ $", r"\boxed{7}", UNREADABLE),
        ("???", r"\boxed{???}", UNREADABLE),
        (r"a \mid b", r"\boxed{a\mid b}", CORRECT),  # equal text
        (r"a \mid b", r"\boxed{b\mid a}", INCORRECT),
        ("5", r"\boxed{5\text{ qwerts}}", INCORRECT),  # not on the list of units
    ],
)
def test_the_box_is_found_without_a_worker(answer, response, expected):
    verifier = MathAnswer()
    assert verdict(verifier, answer, response) == expected
    assert verifier.pool.workers == []


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        *(("42", "42"), ("1,234", "1234")),  # GSM8K, after ####
        *(("27.0", "27"), ("27", "27.0")),  # AMC, from a column of floats
        *(("$\\frac{1}{3}$", r"\dfrac13"), ("$3$, $-1$", "-1, 3")),  # olympiads
        *(("$(1,2),(2,1)$", "(2,1) and (1,2)"), (r"$45^{\circ}$", r"45^\circ")),
        *((r"$12 \mathrm{~cm}$", "12"), ("0.5 m", "0.5 m")),
        *(
            ("4.5e33", r"4.5 \times 10^{33}"),
            (r"4.5 \times 10^{33} \text{ erg/s}", "4.5e33"),
        ),  # Minerva
        *(("-1.6e-19", r"-1.6 \times 10^{-19} \mathrm{~C}"), (r"10^{-10}", "1e-10")),
        (r"\$24.50", "24.5 dollars"),
    ],
)
def test_the_notations_of_the_data_sets_are_graded_correct(mathematics, reference, answer):
    assert verdict(mathematics, reference, f"\\boxed{{{answer}}}") == CORRECT
    assert mathematics.unreadable([prompt(reference)]) == []


@pytest.mark.parametrize(
    ("reference", "correct", "incorrect"),
    [
        (r"\frac{\sqrt{2}}{2}", [r"\frac{1}{\sqrt2}"], []),
        ("x^2+1", ["1+x^2"], ["x^2-1"]),
        ("(x-1)(x-2)", ["x^2-3x+2"], []),
        ("1-1/e", [], ["1+1/e"]),
        ("2", [r"\sqrt4"], []),
        ("5", [], [r"5\text{ or 6}", "5 )))", r"5 \foo"]),
        ("x", [], ["???"]),
        (r"0.\overline{3}", [r"\frac{1}{\sqrt9}"], []),
        (r"2\pi", ["6.283185"], ["6.28"]),  # six decimals of an irrational number
        (r"\pi\cdot10^{-6}", [], ["0.00000314"]),  # six decimals, but an error of 1 in 2,000
        (r"\pi", [], [r"\frac{355}{113}"]),
        (r"10001\pi", [], [r"10000\pi"]),
        (r"\frac{1}{2^{99}}", ["2^{-99}"], [r"\frac{1}{2^{98}}"]),  # a difference of 1.6e-30
        ("x+2^{-99}", [], ["x+2^{-98}"]),
        (r"\{2^{-99},\sqrt2\}", [], [r"\{2^{-98},\sqrt2\}"]),
        (r"2\sqrt{3}\text{ cm}", [r"\sqrt{12}"], [r"2\sqrt3\text{ m}"]),
        ("2 m", [], ["2 k"]),  # variables, which math-verify drops as units
        ("2R", [], ["2r"]),
        (r"\sin 30^\circ", [r"\frac12"], []),
        (r"(90-x)^\circ", ["90-x"], []),
        (r"\frac{\pi}{2}", [], [r"90^\circ"]),
        ("y=2x+1", ["2x+1"], []),
        ("2x+1", ["y=2x+1"], []),
        ("x=1,y=2", ["y=2, x=1"], ["x=2,y=1"]),
        (r"1 \pm \sqrt2", [r"1-\sqrt2, 1+\sqrt2"], []),
        (r"\{\sqrt2,1\}", [r"1, \sqrt{2}"], []),
        (r"(\sqrt2,1)", [r"\sqrt2,1"], [r"1,\sqrt2"]),
        (r"(3,\infty)", ["x>3"], []),
        ("x>3", [r"(3,\infty)"], [r"x \ge 3", "y>3"]),
        ("[1,2]", [r"1 \le x \le 2"], []),
        (r"(-\infty,1)\cup(2,\infty)", [r"(2,\infty) \cup (-\infty,1)"], []),
        (
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            [r"\begin{bmatrix}1&2\\3&\frac82\end{bmatrix}"],
            [],
        ),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", [], ["(1,2)", r"\begin{pmatrix}1\\3\end{pmatrix}"]),
        (r"\log 100", ["2"], []),
        (r"\ln 2", [], [r"\log 2"]),
        (r"e^{i\pi}", ["-1"], []),
        ("abc", ["cba"], []),
        ("2x>6", ["x>3"], ["x>6"]),
        (r"(-\infty,1)\cup(2,\infty)", [r"x<1 \text{ or } x>2"], ["1<x<2"]),
        ("AB", [], ["BA"]),
        ("f'(x)", [], ["f(x)"]),
        ("11:30", [], [r"\frac{11}{30}"]),
    ],
)
def test_mathematics_is_compared_as_mathematics(mathematics, reference, correct, incorrect):
    answers = correct + incorrect
    (scored,) = mathematics([group(reference, *(f"\\boxed{{{answer}}}" for answer in answers))])
    found = {a: (v.score, v.outcome) for a, v in zip(answers, scored.verdicts, strict=True)}
    assert found == dict.fromkeys(correct, CORRECT) | dict.fromkeys(incorrect, INCORRECT)


def test_an_unread_reference_is_correct_for_equal_text_only(mathematics):
    (scored,) = mathematics([group("a???", r"\boxed{a ???}", r"\boxed{a??}", r"\boxed{x^2}")])
    assert [(v.score, v.outcome) for v in scored.verdicts] == [CORRECT, INCORRECT, INCORRECT]


def test_a_missing_reference_never_rewards_and_is_counted(mathematics):
    assert outcome_counts(mathematics([group("", r"\boxed{1}", r"\boxed{}")])) == dict.fromkeys(
        map(str, Outcome), 0
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
        ("1/2", ["0.5", r"x = \frac12\text{ cm}"]),
        ("{1,2}", ["2, 1"]),
        ("yes", [r"\text{Yes}"]),
        ("1/2*pi*r", [r" \dfrac{ \pi }{ 2 }  r ", r"r\pi/2"]),
        ("1+x", [r"\left(x + 1\right)", "1+x", "y = x+1"]),
        (r"a \mid b", [r"a\mid b"]),
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
