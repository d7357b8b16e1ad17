"""Labeled pairs are graded as labeled, and no small change of a reference stays correct."""

import json
import random
import re
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import pytest

from ceeh.data.verify.math_answer import MathAnswer, parse_answer
from ceeh.types import GradingOutcome
from tests.data.verify.scoring import group, prompt

FOLDER = Path(__file__).parent / "pairs"
FILES = ("adversarial", "math_verify", "hendrycks")
# Where a change of one character may leave the value as it is.
ALLOWED = [
    r"\\[pb]?mod|\\equiv|mod",  # another number of the same residue class
    r"\\(?:mp|pm)",
    r"\\(?:max|gcd|binom)|1\^|array|-0|\(-x\)\^2|\d\\infty",  # \max(3,4) = \max(1,4)
]


def pairs(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def graded(verifier, cases):
    """1 or 0 for each (reference, box)."""
    scored = verifier([group(reference, f"\\boxed{{{box}}}") for reference, box in cases])
    assert {s.verdicts[0].outcome for s in scored} <= {GradingOutcome.OK, GradingOutcome.UNREADABLE}
    return [int(s.verdicts[0].score) for s in scored]


@pytest.fixture(scope="module")
def verifier():
    verifier = MathAnswer(timeout_seconds=5, workers=2, stall_seconds=60)
    yield verifier
    verifier.close()


@pytest.mark.parametrize("name", FILES)
def test_every_pair_is_graded_as_labeled(verifier, name):
    rows = pairs(name)
    found = graded(verifier, [(row["reference"], row["response"]) for row in rows])
    wrong = [row for row, score in zip(rows, found, strict=True) if score != row["correct"]]
    assert wrong == []
    assert verifier.unreadable([prompt(row["reference"]) for row in rows if row["correct"]]) == []


def test_labels_that_differ_from_their_source_have_a_reason():
    for name in FILES[1:]:
        for row in pairs(name):
            assert (row["correct"] != row["label"]) == bool(row.get("reason")), row


def test_a_reference_is_correct_for_itself_and_however_it_is_laid_out(verifier):
    cases = []
    for reference in references():
        spaced = re.sub(r"(?<=[^\\A-Za-z0-9{,<>!])([-+=(])", r" \1 ", reference)
        cases += [(reference, reference), (reference, spaced), (reference, f"{reference}.")]
    found = graded(verifier, cases)
    assert [case for case, score in zip(cases, found, strict=True) if not score] == []


def references():
    """The distinct references of all files, and what is labeled correct for them."""
    texts = [
        row[side] for name in FILES for row in pairs(name) for side in ("reference", "response")
    ]
    return [text for text in dict.fromkeys(texts) if parse_answer(text) and len(text) < 120]


def changed(text, source):
    """`text` with one letter, digit, sign, index or bracket changed, outside of commands."""
    places = [
        match.start()
        for match in re.finditer(r"\\[A-Za-z]+|\\.|[A-Za-z0-9+\-()\[\]<>_^]", text)
        if len(match[0]) == 1
    ]
    if not places:
        return None
    at = source.choice(places)
    old = text[at]
    for kind in ("0123456789", ascii_lowercase, ascii_uppercase, "+-", "_^"):
        if old in kind:
            return text[:at] + source.choice([c for c in kind if c != old]) + text[at + 1 :]
    bracket = {"(": "[", ")": "]", "[": "(", "]": ")", "<": ">", ">": "<"}[old]
    return text[:at] + bracket + text[at + 1 :]


def test_one_changed_character_is_never_correct(verifier):
    source = random.Random(1)
    cases = []
    for reference in references():
        if any(re.search(pattern, reference) for pattern in ALLOWED):
            continue
        for _ in range(3):
            if (other := changed(reference, source)) is not None and other != reference:
                cases.append((reference, other))
    assert len(cases) > 2000
    found = graded(verifier, cases)
    assert [case for case, score in zip(cases, found, strict=True) if score] == []


def test_one_spelling_for_votes_is_graded_equal(verifier):
    """But for units, names and clauses, which a vote leaves out."""
    texts = references()
    spelled = {}
    for text in texts:
        spelled.setdefault(parse_answer(text).canonical, []).append(text)
    cases = [(texts[0], other) for texts in spelled.values() for other in texts[1:]]
    assert len(cases) > 200
    found = graded(verifier, cases)
    wrong = [case for case, score in zip(cases, found, strict=True) if not score]
    assert [case for case in wrong if not any(map(LEFT_OUT.search, case))] == []


LEFT_OUT = re.compile(r"text|mathrm|mbox|%|\$|circ|[=<>]|equiv|[a-z]{2}")
