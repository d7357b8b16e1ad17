"""Classes of the user's own that do not import, fit or hold: named with file and line, no trace of ours."""

from pathlib import Path

import pytest

from tests.bad_input.conftest import Refused

SOURCE = """
import sys
from ceeh.types import Question
from ceeh.data.verify import ExactAnswer
from ceeh.callbacks.signal import SignalCallback

number = 3
def function(prompt, response): return 1.0
class Raises:
    def __init__(self): raise KeyError("no such table")
class RaisesOS:
    def __init__(self, path="gone.db"): open(path)
class Needs:
    def __init__(self, size): pass
class NoList:
    pass
class Texts:
    def __iter__(self): return iter(["1+1?"])
class Breaks:
    def __iter__(self):
        yield Question(uid="a", text="1+1?", answer="02")
        raise ZeroDivisionError("row 1")
class Surrogates:
    def __iter__(self): yield Question(uid="a", text="\\ud83d", answer="02")
class NoVerifier:
    def __call__(self, groups): return []
class Closed(ExactAnswer):
    def unreadable(self, prompts): raise ConnectionError("the judge is down")
class Plain:
    pass
class Writes(SignalCallback):
    writes = ("hard",)
    state = ()
    def read(self, uid): return {}
    def observe(self, outcome): pass
"""
TRAIN, VERIFIER, MINE = "prompts.train", "verifier", "callbacks.mine"


@pytest.mark.parametrize(
    ("place", "name", "arguments", "parts"),
    [
        (TRAIN, "mine.py:Nothing", "", ["has no 'Nothing'; its classes are: Raises"]),
        (TRAIN, "nowhere.py:A", "", ["cannot import 'nowhere.py' (no file nowhere.py)"]),
        (TRAIN, "broken.py:A", "", ["'broken.py' fails while it is loaded (SyntaxError"]),
        (
            TRAIN,
            "leaves.py:A",
            "",
            ["'leaves.py' fails while it is loaded (SystemExit: 7, leaves.py line 2"],
        ),
        (TRAIN, "fails.py:A", "", ["(ZeroDivisionError: division by zero, fails.py line 1"]),
        (TRAIN, "no.such.module.A", "", ["cannot import 'no.such.module'"]),
        (TRAIN, "A", "", ["must be package.module.Class or path/to/file.py:Class, got 'A'"]),
        (TRAIN, "mine.py:number", "", ["is no Python class"]),
        (
            TRAIN,
            "mine.py:Raises",
            "",
            ["fails while it is built (KeyError: 'no such table', mine.py line 10"],
        ),
        (TRAIN, "mine.py:RaisesOS", "", ["FileNotFoundError", "gone.db", "mine.py line 12"]),
        (TRAIN, "mine.py:Needs", "", ["init_args lacks size"]),
        (
            TRAIN,
            "mine.py:Needs",
            "{sice: 3}",
            ["init_args.sice is not an argument", "it takes: size"],
        ),
        (TRAIN, "mine.py:NoList", "", ["mine.py:NoList is no source of questions"]),
        (TRAIN, "mine.py:Texts", "", ["a source must yield ceeh.types.Question, got str '1+1?'"]),
        (
            TRAIN,
            "mine.py:Breaks",
            "",
            ["Breaks fails while it is read (ZeroDivisionError: row 1, mine.py line 22"],
        ),
        (TRAIN, "mine.py:Surrogates", "", ["the text of a question must be valid UTF-8 text"]),
        (VERIFIER, "mine.py:NoVerifier", "", ["is no Verifier"]),
        (
            VERIFIER,
            "mine.py:Closed",
            "",
            ["mine.py:Closed failed in unreadable", "the judge is down"],
        ),
        (
            VERIFIER,
            "ceeh.data.verify.RewardFunction",
            "{class_path: 'mine.py:number'}",
            ["must be a function"],
        ),
        (
            VERIFIER,
            "ceeh.data.verify.RewardFunction",
            "{class_path: 'gone.py:f'}",
            ["cannot import 'gone.py'"],
        ),
        (
            VERIFIER,
            "ceeh.data.verify.ExactAnswer",
            "{pattern: '('}",
            ["pattern '(' is not a regular expression"],
        ),
        (MINE, "mine.py:Plain", "", ["is not a SignalCallback"]),
        (
            MINE,
            "mine.py:Writes",
            "",
            ["the signal 'hard' is written by RollingDifficulty and by Writes"],
        ),
        ("engine", "mine.py:Needs", "", ["engine.init_args lacks size"]),
        ("engine", "mine.py:Nothing", "", ["engine.class_path: 'mine.py' has no 'Nothing'"]),
        ("objective.shaping", "mine.py:Raises", "", ["fails while it is built (KeyError"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_class_that_does_not_hold(
    place: str, name: str, arguments: str, parts: list[str], refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("class A(:\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(7)\n")
    (tmp_path / "fails.py").write_text("1 / 0\n")
    overrides = [f"{place}.class_path={name}"]
    if arguments:
        overrides.append(f"{place}.init_args={arguments}")
    refused(overrides, place.partition(".mine")[0], *parts)
