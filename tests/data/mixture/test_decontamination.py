"""Contamination: coverage by shared n-grams against a slow reference, short questions, disguises."""

import random

import pytest

from ceeh.data.mixture.decontamination import Decontaminator, words
from ceeh.types import Question


def question(text, uid="q"):
    return Question(uid=uid, text=text, answer="1")


def finder(*texts, ngram=8, coverage=0.5):
    known = [question(text, f"q{i}") for i, text in enumerate(texts)]
    return Decontaminator({"bench": known}, ngram=ngram, coverage=coverage)


def reference_coverage(known, text, ngram):
    """A word counts when any run of `ngram` words around it stands in `text` too."""
    other = [text[i : i + ngram] for i in range(len(text) - ngram + 1)]
    counted = 0
    for place in range(len(known)):
        starts = range(max(0, place - ngram + 1), min(place, len(known) - ngram) + 1)
        counted += any(known[start : start + ngram] in other for start in starts)
    return counted / len(known)


TEN = "one two three four five six seven eight nine ten"


def test_coverage_is_the_share_of_the_benchmarks_words():
    # Eight of ten words are one shared 8-gram: 0.8. Words around it, and their number, do not matter.
    overlap = finder(TEN).find("zero two three four five six seven eight nine eleven " + "x " * 50)
    assert overlap is not None
    assert (overlap.coverage, overlap.benchmark, overlap.benchmark_uid) == (0.8, "bench", "q0")
    assert overlap.shared == "two three four five six seven eight nine"


def test_more_than_the_share_is_needed():
    # One 8-gram of 16 words is exactly a half.
    known = f"{TEN} eleven twelve thirteen fourteen fifteen sixteen"
    text = "one two three four five six seven eight"
    assert finder(known).find(text) is None
    assert finder(known, coverage=0.49).find(text) is not None
    assert finder(known, coverage=0.49).find(text.replace("five", "5")) is None


@pytest.mark.parametrize("ngram", [2, 3, 5])
def test_the_index_finds_what_the_slow_reference_finds(ngram):
    rng = random.Random(ngram)
    found = 0
    for _ in range(300):
        known = [[rng.choice("abc") for _ in range(rng.randint(ngram, 14))] for _ in range(3)]
        text = [rng.choice("abc") for _ in range(rng.randint(1, 12))]
        shares = [reference_coverage(one, text, ngram) for one in known]
        overlap = finder(*map(" ".join, known), ngram=ngram, coverage=0.6).find(" ".join(text))
        assert (overlap is not None) == (max(shares) > 0.6)
        if overlap is not None:
            found += 1
            assert overlap.coverage == max(shares)
            assert overlap.benchmark_uid == f"q{shares.index(max(shares))}"
            assert f" {overlap.shared} " in f" {' '.join(known[shares.index(max(shares))])} "
    assert 10 < found < 290


@pytest.mark.parametrize(
    "disguise",
    [
        r"FIND the number of $(a,b)$ with \(a^2+b^2 = \dfrac{1}{2}\), a and b real?",
        "Find  the number\nof ( a , b ) with a^{2} + b^{2} = dfrac 1 2; a and b, real.",
        "Recall a fact. Find the number of a b with a 2 b 2 dfrac 1 2 a and b real. Hurry!",
        "Find the number of (\uff41, b) with a^\uff12 + b^2 = dfrac{1}{2}, a and b real",  # full width
    ],
)
def test_case_punctuation_marks_and_context_hide_nothing(disguise):
    known = r"Find the number of $(a, b)$ with $a^2 + b^2 = \dfrac{1}{2}$, $a$ and $b$ real."
    overlap = finder(known).find(disguise)
    assert overlap is not None
    assert overlap.coverage == 1


def test_a_common_ending_contaminates_only_by_the_rule_of_a_single_ngram():
    ending = "where m and n are relatively prime positive integers find m plus n"
    known = f"A point of a square of side four is chosen; it lies near a corner with chance m/n {ending}"
    other = f"The roots of a cubic sum to m/n {ending}"
    assert finder(known, ngram=8).find(other) is None
    assert finder(known, ngram=13, coverage=0.0).find(other) is not None


def test_short_questions_must_be_equal_but_for_case_space_and_punctuation():
    find = finder("What is $3+4$?", "Solve x.").find
    for same in ("what is 3 + 4", r"What is \(3+4\)?", "WHAT IS 3+4 !"):
        assert find(same) is not None, same
        assert find(same).shared == "what is 3 4"
    for other in ("What is 3-4?", "Tell me. What is 3+4?", "Solve x, then y.", ""):
        assert find(other) is None, other


def test_the_largest_overlap_is_named():
    find = finder(f"{TEN} {'pad ' * 4}", TEN, TEN).find
    assert find(TEN).benchmark_uid == "q1"


def test_words_are_runs_of_letters_and_digits():
    assert words(r"\frac{1}{2} Ångström's a_1b!") == ("frac", "1", "2", "ångström", "s", "a", "1b")
