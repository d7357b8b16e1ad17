"""Answers as values: numbers exactly, units of a closed list, and nothing half read."""

import re
from fractions import Fraction

import pytest

from ceeh.data.verify.expressions import UnreadError, number
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
        ("-5", ["-5", "- 5", r"\text{negative }5"]),
        ("1/2", [".5", r"\frac{1}{2}", r"\frac12", r"\frac 12", "\u00bd"]),
        ("1234567", ["1,234,567"]),
        ("2469/2", ["1,234.5"]),
        ("3/4", ["3/4", "1.5/2"]),
        ("-3/4", ["-3 / 4", r"\frac{1.5}{-2}"]),
        ("1/23", [r"\frac1{23}"]),
        ("4", [r"\frac{12}3", r"\sqrt{16}", r"\sqrt[3]{64}"]),
        ("-2", [r"\sqrt[3]{-8}"]),
        ("-1/2", [r"-\frac{3}{6}", r"\frac{-1}{2}"]),
        ("3/2", [r"1\frac{1}{2}", "1 1/2"]),
        ("-3/2", [r"-1\frac{1}{2}"]),
        ("1200", [r"1.2 \times 10^3", r"1.2 * 10^{3}", "1.2e3", r"\text{12 hundred}", "1.2x10^3"]),
        ("3/2500", [r"1.2\cdot10^{-3}"]),
        ("1/100000", [r"10^{-5}", "1E-5", "10^-5"]),
        ("1e12", [r"10^12"]),  # what a model means by it
        ("1/3", [r"0.\overline{3}"]),
        ("1/6", [r"0.1\overline{6}"]),
        ("1/7", [r"0.\overline{142857}"]),
        ("24", [r"2\text{ dozen}", r"\text{two dozen}"]),
    ],
)
def test_numbers_are_read_as_fractions(expected, texts):
    assert [number(value(text)[1]) for text in texts] == [Fraction(expected)] * len(texts)


UNREAD = r"""
    1 2; 1..2; 1_; 1/0; \frac{1}{0}; \frac{0}{0}; 0.\overline{}; 0.\overline{3x}; 2 ); 2+; \foo{1}; x^2^3
    \frac{1}{2; 5 5; \sqrt12; x_; 5\text{ qwerts}; 5\text{ cm}+1; 5\text{ cm}^0; 5\text{ m/m}
    5\text{ at most}; \text{about }5; \approx 5; 5\ldots; 5'; 5 m/; \triangle; A \cup \pm 1
    \text{twenty-four}; \text{twenty four}; twenty four; \text{one hundred five}
    \text{hundred-five}; 5\text{ two}
"""


@pytest.mark.parametrize("text", [*re.split("; |\n    ", UNREAD.strip()), "9" * 101, "\u0667"])
def test_what_has_a_token_without_meaning_is_unread(text):
    with pytest.raises(UnreadError):
        value(text)


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("cm", [r"5\text{ cm}", "5 cm", "5cm", r"5\,\mathrm{cm}", r"5\text{ centimetres}"]),
        ("cm2", [r"5\text{ cm}^2", r"5\text{ square centimeters}", "5 sq cm", "5 cm^{2}"]),
        ("m s-1", [r"5 \text{ m/s}", r"5\text{ meters per second}"]),
        ("m s-1", [r"5\text{ m}\cdot\text{s}^{-1}"]),
        ("h-1 mi", ["60 miles per hour", "60 mph"]),
        ("deg", [r"45^\circ", r"45^{\circ}", r"45 \text{ degrees}", r"(90-x)^\circ"]),
        ("degC", [r"45^\circ\text{C}", r"45\text{ degrees Celsius}", r"45^\circ C"]),
        ("$", [r"\$5", "5 dollars", r"-\$5"]),
        ("apple", ["5 apples", r"5 \text{ apple}"]),
        ("", ["5", "5 m", "2mg", "5x", r"3\mathrm{i}", r"4\mathrm{e}"]),
        ("", [r"7\mathit{m}", r"\sin 30^\circ"]),
    ],
)
def test_a_unit_of_the_list_follows_a_value(unit, texts):
    assert [value(text)[2] for text in texts] == [unit] * len(texts)
