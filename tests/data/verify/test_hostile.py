"""Hostile answers: none is rewarded, none hangs, none runs code, none costs an honest one."""

from pathlib import Path

import pytest

from ceeh.data.verify.base import outcome_counts
from ceeh.data.verify.math_answer import MathAnswer
from ceeh.types import Outcome
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
from tests.data.verify.scoring import CORRECT, group, prompt, verdict

MEMORY_MIB = 768
HONEST_BOX = response(HONEST)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """One call for all hostile answers, an honest one beside each; its verifier and its folder."""
    folder = tmp_path_factory.mktemp("work")
    verifier = MathAnswer(timeout_seconds=0.5, workers=2, memory_mib=MEMORY_MIB, stall_seconds=600)
    responses = [text for hostile in HOSTILE.values() for text in (response(hostile), HONEST_BOX)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (scored,) = verifier([group(REFERENCE, *responses)])
        yield scored, verifier, folder
    verifier.close()


def test_the_set_is_large_and_its_honest_answer_is_right(mathematics):
    assert len(HOSTILE) >= 60
    assert verdict(mathematics, REFERENCE, HONEST_BOX) == CORRECT


def test_no_hostile_answer_is_rewarded_and_each_comes_back(judged):
    scored, _, _ = judged
    rewarded = [
        name
        for name, v in zip(HOSTILE, scored.verdicts[::2], strict=True)
        if v.score > 0 or v.outcome is Outcome.UNREADABLE
    ]
    assert rewarded == []


def test_honest_answers_between_them_are_right(judged):
    scored, _, _ = judged
    assert [v.score for v in scored.verdicts[1::2]] == [1.0] * len(HOSTILE)


def test_nothing_of_them_is_executed(judged):
    _, _, folder = judged
    assert list(folder.iterdir()) == []
    assert any(CANARY in text for text in HOSTILE.values())


def test_the_pool_still_judges_right_after_them(judged):
    _, verifier, _ = judged
    (scored,) = verifier([group(REFERENCE, HONEST_BOX, response("x+2"))])
    assert [v.score for v in scored.verdicts] == [1.0, 0.0]


def test_workers_stay_under_their_limit(judged):
    _, verifier, _ = judged
    for worker in verifier.pool.workers:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if "VmPeak" in line)
        assert peak <= MEMORY_MIB * 1024


def test_as_references_they_reward_no_other_answer(mathematics):
    references = [prompt(text) for text in (CODE | TEXT | BROKEN).values()]
    unreadable = mathematics.unreadable(references)
    assert len(references) / 2 < len(unreadable) < len(references)
    scored = mathematics([group(p.answer, r"\boxed{y+3}", r"\boxed{y}") for p in references])
    assert sum(v.score for s in scored for v in s.verdicts) == 0
    told = {p.answer for p in unreadable}
    late = [
        p.answer
        for p, s in zip(references, scored, strict=True)
        if any(v.outcome is Outcome.UNREADABLE for v in s.verdicts) and p.answer not in told
    ]
    assert late == []


def test_a_call_full_of_them_is_over_when_they_have_spent_their_time():
    verifier = MathAnswer(timeout_seconds=0.5, workers=2, stall_seconds=2)
    integers = [group(str(n), *(rf"\boxed{{{n + k}}}" for k in range(10))) for n in range(200)]
    scored = verifier([*integers, group(REFERENCE, *map(response, HOSTILE.values()))])
    assert sum(v.score for s in scored for v in s.verdicts) == 200
    assert outcome_counts(scored)["timeout"] > 10
    verifier.close()
