"""Custom classes that do not import or do not fit: the message names file and line, without a traceback."""

from pathlib import Path

import pytest

from tests.bad_input.conftest import Refused

SOURCE = """
import sys; from pathlib import Path; from lightning import Callback
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
    def unreadable(self, prompts): raise ConnectionError("the grader is down")
class Plain:
    pass
class NoReads:
    def __call__(self, inputs): return inputs.scores
class Writes(SignalCallback):
    writes = ("hard",)
    state = ()
    def read(self, uid): return {}
    def observe(self, outcome): pass
class Unset(Writes):
    writes = ("mine",)
    state = ("table",)
class Kept(Callback):
    def __init__(self, kind): self.kept = {"path": Path("a"), "lines": (n for n in "a")}[kind]
    def state_dict(self): return {"kept": self.kept}
class Leaves(Callback):
    def state_dict(self): sys.exit(3)
"""
REWARD = "verifier ceeh.data.verify.RewardFunction"
CASES = {
    "prompts.train mine.py:Nothing": "has no 'Nothing'; its classes are: Raises",
    "prompts.train nowhere.py:A": "cannot import 'nowhere.py' (no file nowhere.py; paths are relative to /",
    "prompts.train broken.py:A": "'broken.py' fails while it is loaded (SyntaxError",
    "prompts.train leaves.py:A": "fails while it is loaded (SystemExit: 7, leaves.py line 2",
    "prompts.train fails.py:A": "(ZeroDivisionError: division by zero, fails.py line 1",
    "prompts.train no.such.module.A": "cannot import 'no.such.module'",
    "prompts.train A": "must be package.module.Class or path/to/file.py:Class, got 'A'",
    "prompts.train mine.py:number": "Python class",
    "prompts.train mine.py:Raises": "(KeyError: 'no such table', mine.py line 10",
    "prompts.train mine.py:RaisesOS": "FileNotFoundError ... gone.db ... mine.py line 12",
    "prompts.train mine.py:Needs": "init_args lacks size",
    "prompts.train mine.py:Needs {sice: 3}": "init_args.sice is not an argument ... it takes: size",
    "prompts.train mine.py:NoList": "mine.py:NoList ... source of questions",
    "prompts.train mine.py:Texts": "a source must yield ceeh.types.Question, got str '1+1?'",
    "prompts.train mine.py:Breaks": "fails while it is read (ZeroDivisionError: row 1, mine.py line 22",
    "prompts.train mine.py:Surrogates": "the text of a question must be valid UTF-8 text",
    "verifier mine.py:NoVerifier": "Verifier",
    "verifier mine.py:function": "mine.py:function is a function ... give it to a verifier of "
    "functions: verifier.class_path=ceeh.data.verify.RewardFunction "
    "verifier.init_args.class_path=mine.py:function",
    "engine ceeh.data.engine.VLLMEngine {kv_cache_gib: big}": "engine.init_args.kv_cache_gib must be "
    "a number or null, got 'big'",
    "objective.shaping ceeh.modules.shaping.OptimalLengthPenalty {beta: big}": "init_args.beta must be "
    "a number, got 'big'",
    "prompts.train ceeh.data.sources.StarterTask {questions: 1e9}": "init_args.questions must be a "
    "whole number, got 1000000000.0; write 1000000000",
    "verifier mine.py:Closed": "Closed failed in unreadable ... the grader is down",
    f"{REWARD} {{class_path: 'mine.py:number'}}": "must be a function",
    f"{REWARD} {{class_path: 'gone.py:f'}}": "cannot import 'gone.py'",
    "verifier ceeh.data.verify.ExactAnswer {pattern: '('}": "pattern '(' is not a regular expression",
    "callbacks.mine mine.py:Plain": "is not a Callback of Lightning",
    "callbacks.mine mine.py:Writes": "the signal 'hard' is written by RollingDifficulty and by Writes",
    "callbacks.mine mine.py:Unset": "(mine.py:Unset) fails in state_dict, which every checkpoint calls "
    "(AttributeError: 'Unset' object has no attribute 'table'",
    "callbacks.mine mine.py:Leaves": "fails in state_dict ... (SystemExit: 3, mine.py line",
    **{
        f"callbacks.mine mine.py:Kept {{kind: {kind}}}": "(mine.py:Kept): a checkpoint cannot keep its "
        f"state, dict {{'kept': ... ({error}); what state_dict returns may hold numbers, text"
        for kind, error in (("path", "UnpicklingError"), ("lines", "TypeError"))
    },
    "engine mine.py:Needs": "engine.init_args lacks size",
    "engine mine.py:Nothing": "engine.class_path: 'mine.py' has no 'Nothing'",
    "objective.shaping mine.py:NoReads": "objective.shaping: mine.py:NoReads has reads = None",
    "objective.shaping mine.py:Raises": "fails while it is built (KeyError",
}
"""Place, class path and init_args -> what the message says."""


@pytest.mark.parametrize("case", CASES)
def test_an_invalid_class(case: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("class A(:\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(7)\n")
    (tmp_path / "fails.py").write_text("1 / 0\n")
    place, name, *arguments = case.split(" ", 2)
    overrides = [f"{place}.class_path={name}", *(f"{place}.init_args={each}" for each in arguments)]
    refused(overrides, place.removesuffix(".mine"), CASES[case])
