"""Numbers, lists, tuples and words: parsed and compared exactly without a worker, in one spelling."""

from fractions import Fraction

import pytest

from ceeh.data.verify.exact_numbers import as_number
from ceeh.data.verify.extract import clean
from ceeh.data.verify.parse import canonical, parse_plain, same


def plainly(text):
    cleaned = clean(text)
    return None if cleaned is None else parse_plain(cleaned)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("27", ["27", "27.0"]),
        ("7", ["007"]),
        ("5", ["+5"]),
        ("-5", ["-5", "- 5"]),
        ("1/2", [".5", r"\frac{1}{2}", r"\frac12"]),
        ("1234567", ["1,234,567"]),
        ("2469/2", ["1,234.5"]),
        ("3/4", ["3/4", "1.5/2"]),
        ("-3/4", ["-3 / 4", r"\frac{1.5}{-2}"]),
        ("1/23", [r"\frac1{23}"]),
        ("4", [r"\frac{12}3"]),
        ("-1/2", [r"-\frac{3}{6}", r"\frac{-1}{2}"]),
        ("3/2", [r"1\frac{1}{2}", "1 1/2"]),
        ("-3/2", [r"-1\frac{1}{2}"]),
        ("11/2", ["11/2"]),
        ("1200", [r"1.2 \times 10^3", r"1.2 * 10^{3}", "1.2e3"]),
        ("3/2500", [r"1.2\cdot10^{-3}"]),
        ("1/100000", [r"10^{-5}", "1E-5"]),
        ("1e12", [r"10^12"]),  # what a model means by it
        ("1/3", [r"0.\overline{3}"]),
        ("1/6", [r"0.1\overline{6}"]),
        ("1/7", [r"0.\overline{142857}"]),
    ],
)
def test_numbers_are_parsed_as_fractions(value, texts):
    assert [as_number(text) for text in texts] == [Fraction(value)] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "-", "--5", "+-5", "x", "1 2", "1,2", "1,23", ",123", "1..2", "\u0667", "1_000"),
        *("1/0", r"\frac{1}{0}", r"\frac{0}{0}", r"2\frac{-1}{2}", "9" * 101, "2^10", "1e9999"),
        *("1e999999999", r"10^{999999999}", r"0.\overline{}", "nan", "inf", "Infinity", "0x10"),
    ],
)
def test_anything_else_is_not_a_number(text):
    assert as_number(text) is None


@pytest.mark.parametrize(
    ("reference", "correct", "incorrect"),
    [
        ("10000", ["10,000"], ["10001"]),
        ("1/3", [], ["0.333333"]),
        ("9", [r"9\%"], ["0.09"]),
        (r"9\%", ["9", "0.09"], ["900", "0.9"]),
        ("0.09", [r"9 \text{ percent}"], ["9"]),
        (r"50\%", [r"\frac12"], []),
        ("7 million", [r"7 \times 10^6"], []),
        (r"\$3.5\text{ million}", ["3500000"], []),
        ("5", [r"5 \text{ cm}", "y = 5"], ["5, 6", r"\text{five}"]),
        (r"5\text{ cm}", ["5"], [r"5\text{ m}", r"0.05\text{ m}"]),
        (r"5\text{ cm}^2", ["5 square centimeters"], [r"5\text{ cm}"]),
        ("5 apples", [r"5\text{ pears}"], []),  # units outside the table are not compared
        (r"\$5", ["5.00"], []),
        (r"90^\circ", ["90"], [r"90\text{ rad}"]),
        (r"90^{\circ}", [r"90 \text{ degrees}"], []),
        ("12_8", ["12_{8}", "12"], ["12_9"]),
        ("x=5", ["5"], ["y=5", "6"]),
        (r"60^\circ", [r"\angle ABC = 60"], []),
        ("[1,2]", [r"x \in [1,2]"], ["1,2"]),
        ("[1,2)", [], ["[1,2]"]),
        ("1,2", ["2,1", r"\{2,1\}", "2, 1, 2", "(2,1)"], ["[1,2]"]),
        ("3", [], [r"\pm 3", "(3,3)"]),
        ("3,5", [r"3 \text{ and } 5", "5 or 3"], []),
        ("5,6", [], ["5"]),
        ("(1,2)", ["1,2"], ["(2,1)", "2,1", "[1,2]"]),
        (r"\left(\frac12, 2\right)", ["(0.5,2)"], []),
        (r"\pm 3", ["3,-3"], ["3"]),
        (r"\pm\frac12", ["0.5, -0.5"], []),
        ("(1,2),(3,4)", ["(3,4) and (1,2)"], ["(2,1),(3,4)", "1,2,3,4"]),
        (r"\{1,234\}", ["234, 1"], []),
        ("1,000, 2,000", ["2000,1000"], []),
        (r"(-\infty, 3]", [r"(-\infty,3.0]"], []),
        (r"\emptyset", [r"\{\}"], ["0"]),
        (r"\infty", [r"+\infty"], [r"-\infty", "1e300"]),
        (r"\text{yes}", ["Yes"], ["no"]),
        (r"\text{East}", ["east"], []),
        (r"\text{east}", [], ["seat", "5"]),
        (r"\text{no solution}", ["No  solution"], []),
        ("Tuesday", [], ["Monday"]),
        ("A", [r"\textbf{(A)}"], ["B"]),
        ("(B)", ["B."], []),
        ("r", [], ["R"]),
        (r"\text{42}", ["42"], []),
    ],
)
def test_plain_answers_are_compared_exactly(reference, correct, incorrect):
    found = {text: same(plainly(reference), plainly(text)) for text in correct + incorrect}
    assert found == dict.fromkeys(correct, True) | dict.fromkeys(incorrect, False)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        *(("2", r"\sqrt4"), ("2 m", "2 k"), ("5", "5 factorial"), ("5", r"5\text{ or }x")),
        *(("abc", "cba"), ("e", "2.718282"), ("(1,2)", "x"), ("1 2", "12"), ("(1,000)", "1000")),
        ("1", "(((((1)))))"),
    ],
)
def test_math_verify_decides_where_an_answer_is_not_plain(reference, answer):
    assert same(plainly(reference), plainly(answer)) is None


@pytest.mark.parametrize(
    ("spellings", "one"),
    [
        (["0.5", "1/2", r"\frac12", r"\dfrac{1}{2}", "$.5$", "x = 0.5", r"0.5\text{ cm}"], "1/2"),
        (["27", "27.0", "27.", r"27^\circ", r"\$27", r"27\%"], "27"),
        (["1,2", "2, 1", r"\{1,2\}", "2, 1, 1"], "{1,2}"),
        (["(1,2)", r"\left(1,\,2\right)"], "(1,2)"),
        (["(0.5,1]"], "(1/2,1]"),
        (["(2,1)"], "(2,1)"),
        ([r"\pm 1"], "{-1,1}"),
        ([r"\text{Yes}", "yes", "YES"], "yes"),
        (["(A)", r"\text{A}"], "A"),
        ([r"(-\infty, 0)"], "(-inf,0)"),
        (["2,2"], "2"),
        ([r"\{\}"], "{}"),
    ],
)
def test_equal_answers_have_one_spelling(spellings, one):
    assert {canonical(plainly(text)) for text in spellings} == {one}
