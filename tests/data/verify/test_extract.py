"""The answer's text: which box, which thinking block, one spelling, in linear time."""

import subprocess
import sys

import pytest

from ceeh.data.verify.extract import boxed_answer
from ceeh.data.verify.math_answer import parse_answer
from ceeh.data.verify.tokens import spelling, tokenize


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
        ("1", [r"<think>\boxed{1}"]),
        (None, [r"<think>\boxed{1}</think> done", r"<think>a</think>\boxed{1}</think>"]),
        (None, [r"\boxed{1} or \boxed{2", r"\boxed{ }", r"\boxed", "5", ""]),
    ],
)
def test_the_last_box_after_a_closed_thinking_block_is_the_answer(answer, responses):
    assert [boxed_answer(response) for response in responses] == [answer] * len(responses)


@pytest.mark.parametrize(
    ("texts", "spelled"),
    [
        (
            [r"$\dfrac{1}{2}$.", r"\displaystyle \frac{1}{2}", r"\\dfrac{1}{2}"],
            r"\frac { 1 } { 2 }",
        ),
        ([r"10,\!000", r"10\,000", "10{,}000", "10\u2009000", "10,000", "10 000"], "10000"),
        ([r"21,\! 345"], "21345"),
        ([r"\left( 1,\; 2 \right)"], "( 1 , 2 )"),
        (["(1,234)"], "( 1 , 234 )"),
        (["(1,000)"], "( 1000 )"),
        ([r"\{1,000, 2,000\}"], r"\{ 1000 , 2000 \}"),
        ([r"\mathrm{~cm}", r"\text{cm}", "cm"], "cm"),
        (["\u2212\u221e"], r"- \infty"),
        (["60\u00b0", r"60^{\circ}", r"60^\circ"], r"60 ^\circ"),
        (["x^{2}", "x^2", "x\u00b2"], "x ^ 2"),
        ([r"1&2\\ 3&4"], r"1 & 2 \\ 3 & 4"),  # the line break of a matrix is not a space
        ([r"\text{Every Day}", r"\text{every day}"], "every day"),
        ([r"\text{AB}", "AB"], "AB"),
        (["**5**", "`5`", "**5**."], "5"),
        (["x_{10}", "x_10"], "x _ 10"),
        ([r"\mathbb{R}", r"\mathbb R", "\u211d"], r"\mathbb R"),
    ],
)
def test_layout_and_typography_become_one_spelling(texts, spelled):
    assert [spelling(tokenize(text)) for text in texts] == [spelled] * len(texts)


@pytest.mark.parametrize(
    "text", ["", " ", "$$", "x" * 2001, "5\u200b", "5\u0338", "\ud800", "\0", "(" * 41]
)
def test_text_that_cannot_be_an_answer_is_refused(text):
    assert parse_answer(text) is None


PIECES = [
    *(" ", ",", "$", r"\$", "{", "}", "(", ")", "[", "|", "-", "+", "^", "_", "=", ".", "/", "%"),
    *("1", "12", "a", "ab", "\\", "\\\\", r"\,", r"\!", "{,}", "1,", ", ", "1 ", " 1", "1,111"),
    *(
        "or ",
        "and ",
        "x=",
        "\\in",
        r"\boxed",
        r"\boxed{",
        r"\boxed ",
        r"\frac",
        r"\frac{",
        r"\text",
    ),
    *(r"\text{", r"\text{a}", r"\circ", r"^{\circ}", r"\overline", "10^", r"\times", "per ", "/ a"),
    *("\u2009", "\u00d7", "</think>", "million ", "%s", "_{1}", "\\{", "\\}", "(1,", "f(x)"),
]


ENDS = [
    *(("", ""), ("1", ""), ("1", "x"), ("(", ")")),
    *(("x", "=1"), ("", r"\text{cm}"), ("\\{", "\\}")),
]


def run_apart(work: str) -> str:
    """What `work` prints in another process; a scan that does not end fails by the timeout."""
    return subprocess.run(
        [sys.executable, "-c", work], capture_output=True, text=True, check=True, timeout=240
    ).stdout


def test_long_text_of_any_kind_is_scanned_in_linear_time():
    """A quadratic scan of 256 KiB takes minutes; all of these together take seconds."""
    done = run_apart(
        "from ceeh.data.verify.extract import boxed_answer\n"
        f"for piece in {PIECES!r}:\n"
        "    text = piece * (2**18 // len(piece))\n"
        "    boxed_answer(text), boxed_answer('\\\\boxed{' + text), boxed_answer(text + '\\\\boxed{x}')\n"
        "    print(piece.encode())"
    )
    assert len(done.splitlines()) == len(PIECES)


def test_no_answer_within_the_limit_takes_long():
    """No pattern backtracks: an exponential one would not return."""
    done = run_apart(
        "from ceeh.data.verify.math_answer import MAX_ANSWER_CHARACTERS, parse_answer\n"
        f"for piece in {PIECES!r}:\n"
        "    for short in (1, 10, 20):\n"
        f"        for head, tail in {ENDS!r}:\n"
        "            room = MAX_ANSWER_CHARACTERS // short - len(head) - len(tail)\n"
        "            answer = parse_answer(head + piece * (room // len(piece)) + tail)\n"
        "            answer and answer.canonical\n"
        "    print(piece.encode())"
    )
    assert len(done.splitlines()) == len(PIECES)
