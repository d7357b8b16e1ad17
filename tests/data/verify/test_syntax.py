"""Answers as values: numbers exactly, units of a closed list, and nothing half read."""

from fractions import Fraction

import pytest

from ceeh.data.verify.expressions import UnreadError, number
from ceeh.data.verify.math_answer import parse_answer
from ceeh.data.verify.syntax import read
from ceeh.data.verify.tokens import tokenize


def value(text):
    return read(tokenize(text))


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        ("27", ["27", "27.0", "27."]),
        ("7", ["007"]),
        ("5", ["+5", "--5", r"\text{five}"]),
        ("-5", ["-5", "- 5", r"\text{negative }5", r"5\text{ below zero}"]),
        ("1/2", [".5", r"\frac{1}{2}", r"\frac12", r"\frac 12", "\u00bd"]),
        ("1234567", ["1,234,567"]),
        ("2469/2", ["1,234.5"]),
        ("3/4", ["3/4", "1.5/2"]),
        ("-3/4", ["-3 / 4", r"\frac{1.5}{-2}"]),
        ("1/23", [r"\frac1{23}"]),
        ("4", [r"\frac{12}3", r"\sqrt{16}", r"\sqrt[3]{64}"]),
        ("-2", [r"\sqrt[3]{-8}"]),
        ("-1/2", [r"-\frac{3}{6}", r"\frac{-1}{2}"]),
        ("3/2", [r"1\frac{1}{2}", "1 1/2", r"\text{three halves}"]),
        ("-3/2", [r"-1\frac{1}{2}"]),
        ("1200", [r"1.2 \times 10^3", r"1.2 * 10^{3}", "1.2e3", r"\text{12 hundred}", "1.2x10^3"]),
        ("3/2500", [r"1.2\cdot10^{-3}"]),
        ("1/100000", [r"10^{-5}", "1E-5", "10^-5"]),
        ("1e12", [r"10^12"]),  # what a model means by it
        ("1/3", [r"0.\overline{3}"]),
        ("1/6", [r"0.1\overline{6}"]),
        ("1/7", [r"0.\overline{142857}"]),
        ("24", [r"2\text{ dozen}", r"\text{twenty-four}", r"\text{two dozen}"]),
    ],
)
def test_numbers_are_read_as_fractions(expected, texts):
    assert [number(value(text)[1]) for text in texts] == [Fraction(expected)] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1 2",
            "1..2",
            "\u0667",
            "1_",
            "1/0",
            r"\frac{1}{0}",
            r"\frac{0}{0}",
            r"0.\overline{}",
        ),
        *("9" * 101, "2 )", "2+", r"\foo{1}", r"x^2^3", r"\frac{1}{2", "5 5", r"\sqrt12", "x_"),
        *(
            r"5\text{ qwerts}",
            r"5\text{ cm}+1",
            r"5\text{ cm}^0",
            r"5\text{ m/m}",
            r"5\text{ at most}",
        ),
        *(r"\text{about }5", r"\approx 5", r"5\ldots", "5'", "5 m/"),
    ],
)
def test_what_has_a_token_without_meaning_is_unread(text):
    with pytest.raises(UnreadError):
        value(text)


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("cm", [r"5\text{ cm}", "5 cm", "5cm", r"5\,\mathrm{cm}", r"5\text{ centimetres}"]),
        ("cm2", [r"5\text{ cm}^2", r"5\text{ square centimeters}", "5 sq cm", "5 cm^{2}"]),
        (
            "m s-1",
            [r"5 \text{ m/s}", r"5\text{ meters per second}", r"5\text{ m}\cdot\text{s}^{-1}"],
        ),
        ("h-1 mi", ["60 miles per hour", "60 mph"]),
        ("deg", [r"45^\circ", r"45^{\circ}", r"45 \text{ degrees}", r"(90-x)^\circ"]),
        ("degC", [r"45^\circ\text{C}", r"45\text{ degrees Celsius}", r"45^\circ C"]),
        ("$", [r"\$5", "5 dollars", r"-\$5"]),
        ("apple", ["5 apples", r"5 \text{ apple}"]),
        (
            "",
            [
                "5",
                "5 m",
                "2mg",
                "5x",
                r"3\mathrm{i}",
                r"4\mathrm{e}",
                r"7\mathit{m}",
                r"\sin 30^\circ",
            ],
        ),
    ],
)
def test_a_unit_of_the_list_follows_a_value(unit, texts):
    assert [value(text)[2] for text in texts] == [unit] * len(texts)


@pytest.mark.parametrize(
    ("spellings", "one"),
    [
        (["0.5", "1/2", r"\frac12", r"\dfrac{1}{2}", "$.5$", "x = 0.5", r"0.5\text{ cm}"], "1/2"),
        (["27", "27.0", "27.", r"27^\circ", r"\$27", r"27\%"], "27"),
        (["1,2", "2, 1", r"\{1,2\}", "2, 1, 1", "1 or 2", r"x=1,2"], "{1,2}"),
        (["(1,2)", r"\left(1,\,2\right)"], "(1,2)"),
        (["(0.5,1]", r"\frac12<x\le1", r"\{x\mid 0.5<x\le1\}"], "(1/2,1]"),
        (["(2,1)"], "(2,1)"),
        ([r"\pm 1"], "{-1,1}"),
        ([r"\text{Yes}", "yes", "YES"], "yes"),
        (["(A)", r"\text{A}"], "A"),
        ([r"(-\infty, 0)", "x<0", "2x<0"], "(-inf,0)"),
        (["2,2"], "2"),
        ([r"\{\}", r"\emptyset"], "{}"),
        ([r"x\equiv 3\pmod 5", r"8 \pmod{5}"], "3 mod 5"),
        ([r"a \mid b", r"a\mid b"], r"a \mid b"),
    ],
)
def test_equal_answers_have_one_spelling_for_votes(spellings, one):
    assert {parse_answer(text).canonical for text in spellings} == {one}
