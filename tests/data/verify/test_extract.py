"""The answer's text: which box, which thinking block, one spelling, in linear time."""

import subprocess
import sys

import pytest

from ceeh.data.verify.extract import boxed_answer, clean, squeezed
from ceeh.data.verify.units import same_unit, split_unit


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
    ("text", "cleaned"),
    [
        (r"$\dfrac{1}{2}$.", r"\frac{1}{2}"),
        (r"10,\!000", "10,000"),
        (r"10\,000", "10000"),
        ("10{,}000", "10000"),
        ("10\u2009000", "10000"),
        (r"1\,2", "1 2"),
        (r"\left( 1,\; 2 \right)", "( 1, 2 )"),
        (r"\mathrm{~cm}", r"\text{ cm}"),
        ("\u2212\u221e", r"-\infty"),
        ("2\u03c0", r"2\pi"),
        ("60\u00b0", r"60^\circ"),
        (r"3 \text{ and } 5", "3 , 5"),
        ("a\n b", "a b"),
        (r"1&2\\ 3&4", r"1&2\\ 3&4"),  # the line break of a matrix is not a space
        (r"\leftarrow", r"\leftarrow"),
        (r"\$5", r"\$5"),
    ],
)
def test_layout_and_typography_become_one_spelling(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    "text", ["", " ", "$$", ".", "x" * 2001, "5\u200b", "5\u0338", "\ud800", "\0", "(" * 41]
)
def test_text_that_cannot_be_an_answer_is_refused(text):
    assert clean(text) is None


def test_meaningless_spaces_are_removed():
    assert squeezed(r"\pi r + 1 2 \frac{ x }{2} \\ y") == r"\pi r+1 2\frac{x}{2}\\y"
    assert squeezed("x +1") == squeezed("x+ 1") == "x+1"


@pytest.mark.parametrize(
    ("rest", "unit", "texts"),
    [
        ("5", "cm", [r"5\text{ cm}"]),
        ("5", "cm2", [r"5\text{ cm}^2", r"5\text{ square centimeters}", "5 sq cm", "5 cm^{2}"]),
        ("5", "m/s", [r"5 \text{ m/s}"]),
        ("5", "cm/s", [r"5 \text{ cm} / \text{s}"]),
        ("60", "mi/h", ["60 miles per hour", "60 mph"]),
        ("45", "deg", [r"45^\circ", r"45^{\circ}", r"45 \text{ degrees}"]),
        ("5", "$", [r"\$5", "5 dollars"]),
        ("5", "?", ["5 apples", r"5 \text{ apples}"]),
        (r"2\sqrt{3}", "cm", [r"2\sqrt{3}\text{ cm}", r"2\sqrt{3} cm"]),
    ],
)
def test_a_unit_follows_a_value(rest, unit, texts):
    assert [split_unit(text) for text in texts] == [(rest, unit)] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        *("5", "5 m", "5 factorial", "3 squared", "x theta", r"\sin 30^\circ"),
        *(r"\text{ cm}", r"5+\text{cm}", r"5\text{ or more}", r"5\text{ (A)}"),
    ],
)
def test_other_text_has_no_unit(text):
    assert split_unit(text) == (text, "")


def test_only_two_known_units_can_differ():
    assert same_unit("cm", "cm")
    assert same_unit("cm", "")
    assert same_unit("?", "cm")
    assert not same_unit("cm", "m")
    assert not same_unit("cm", "cm2")


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
        "from ceeh.data.verify.extract import MAX_ANSWER_CHARACTERS, clean, squeezed\n"
        "from ceeh.data.verify.parse import parse_plain\n"
        "from ceeh.data.verify.units import split_unit\n"
        f"for piece in {PIECES!r}:\n"
        "    for short in (1, 10, 20):\n"
        f"        for head, tail in {ENDS!r}:\n"
        "            room = MAX_ANSWER_CHARACTERS // short - len(head) - len(tail)\n"
        "            cleaned = clean(head + piece * (room // len(piece)) + tail)\n"
        "            if cleaned:\n"
        "                parse_plain(cleaned), split_unit(cleaned), squeezed(cleaned)\n"
        "    print(piece.encode())"
    )
    assert len(done.splitlines()) == len(PIECES)
