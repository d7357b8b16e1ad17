"""Hostile answers: none is rewarded, hangs, runs code or costs a correct answer."""

from pathlib import Path

import pytest

from ceeh.data.verify.math_answer import MathAnswer
from ceeh.types import GradingOutcome
from tests.data.verify.hostile import (
    BROKEN,
    CANARY,
    CODE,
    HONEST,
    HOSTILE,
    REFERENCE,
    TEXT,
    response,
)
from tests.data.verify.scoring import group, prompt

MEMORY_MIB = 768
UNREADABLE = GradingOutcome.UNREADABLE


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """One call with every hostile answer, each followed by a correct one; its verifier and folder."""
    folder = tmp_path_factory.mktemp("work")
    verifier = MathAnswer(timeout_seconds=0.5, workers=2, memory_mib=MEMORY_MIB, stall_seconds=600)
    responses = [
        text for hostile in HOSTILE.values() for text in (response(hostile), response(HONEST))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (scored,) = verifier([group(REFERENCE, *responses)])
        yield scored.verdicts, verifier, folder
    verifier.close()


def test_no_hostile_answer_is_rewarded_and_no_correct_one_lost(graded):
    verdicts, _, _ = graded
    assert len(HOSTILE) >= 60
    hostile = zip(HOSTILE, verdicts[::2], strict=True)
    assert [name for name, v in hostile if v.score > 0 or v.outcome is UNREADABLE] == []
    assert [v.score for v in verdicts[1::2]] == [1.0] * len(HOSTILE)


def test_none_runs_code(graded):
    _, _, folder = graded
    assert list(folder.iterdir()) == []
    assert any(CANARY in text for text in HOSTILE.values())


def test_the_pool_grades_correctly_after_them_and_within_its_memory(graded):
    _, verifier, _ = graded
    (scored,) = verifier([group(REFERENCE, response(HONEST), response("x+2"))])
    assert [v.score for v in scored.verdicts] == [1.0, 0.0]
    for worker in verifier.pool.workers:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if "VmPeak" in line)
        assert peak <= MEMORY_MIB * 1024


def test_as_references_they_reward_no_other_answer(mathematics):
    references = [prompt(text) for text in (CODE | TEXT | BROKEN).values()]
    unreadable = mathematics.unreadable(references)
    assert 10 < len(unreadable) < len(references)
    scored = mathematics([group(p.answer, r"\boxed{y+3}", r"\boxed{y}") for p in references])
    assert sum(v.score for s in scored for v in s.verdicts) == 0
    found = [s.group.prompt for s in scored if UNREADABLE in (v.outcome for v in s.verdicts)]
    assert {p.answer for p in found} <= {p.answer for p in unreadable}


def test_a_call_full_of_them_loses_no_correct_answer():
    verifier = MathAnswer(timeout_seconds=0.5, workers=2, stall_seconds=2)
    integers = [group(str(n), *(rf"\boxed{{{n + k}}}" for k in range(10))) for n in range(200)]
    scored = verifier([*integers, group(REFERENCE, *map(response, HOSTILE.values()))])
    assert sum(v.score for s in scored for v in s.verdicts) == 200
    verifier.close()
