"""An answer as tokens: one spelling, no exception, in linear time."""

import random
import subprocess
import sys

import pytest

from ceeh.data.verify.math_answer import parse_answer
from ceeh.data.verify.tokens import spelling, tokenize


@pytest.mark.parametrize(
    ("texts", "spelled"),
    [
        ([r"$\dfrac{1}{2}$.", r"\displaystyle \frac{1}{2}"], r"\frac { 1 } { 2 }"),
        ([r"\\dfrac{1}{2}"], r"\frac { 1 } { 2 }"),  # escaped twice
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


_PIECES = r"""
    , $ \$ { } ( ) [ | - + ^ _ = . / % 1 12 a ab \ \\ \, \! {,} 1, 1,111 x= \in \boxed \boxed{ \frac \frac{
    \text \text{ \text{a} \circ ^{\circ} \overline 10^ \times million %s _{1} \{ \} (1, f(x) </think>
"""
PIECES = [
    *_PIECES.split(),
    *(" ", ", ", "1 ", " 1", "or ", "and ", "per ", "/ a", "\\boxed "),
    "\u2009",
    "\u00d7",
]
MORE = r"""
    \angle \overline{3 \in \mathbb{R} \cup \setminus \pm \begin{pmatrix} \end{pmatrix} & \sin \log \binom
    \sqrt \lfloor \emptyset ... am below zero \approx \equiv mod \pmod < ' ! : twenty thirds dozen cm square
    d dy \mid \infty for all real ^\circ \right \left \mathrm{m}
"""
ENDS = [
    *(("", ""), ("1", ""), ("1", "x"), ("(", ")")),
    *(("x", "=1"), ("", r"\text{cm}"), ("\\{", "\\}")),
]


def test_no_text_of_their_tokens_raises():
    """An answer is graded in the training process: an exception would end the run."""
    source = random.Random(0)
    pieces = [*PIECES, *MORE.split(), r",\text{ for all }x"]
    for _ in range(20_000):
        text = source.choice(["", " "]).join(source.choices(pieces, k=source.randrange(1, 7)))
        answer = parse_answer(text)
        assert answer is None or answer.canonical is not None, text


def run_apart(work: str) -> str:
    """What `work` prints in another process; a scan that does not end fails by the timeout."""
    return subprocess.run(
        [sys.executable, "-c", work], capture_output=True, text=True, check=True, timeout=240
    ).stdout


def test_long_text_of_any_kind_is_scanned_in_linear_time():
    """A quadratic scan of 256 KiB takes minutes; all of these together take seconds."""
    done = run_apart(
        "from ceeh.data.verify.math_answer import boxed_answer\n"
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
