"""Our side of the comparisons with TRL takes steps of the job's lengths."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.update import Job, given_rows, make_job
from benchmarks.worker import Worker

LENGTHS = [3, 8, 5, 2]
GIVEN = Namespace(
    size="tiny", attention="sdpa", threads=1, group_size=2, prompt_tokens=4, longest=8
)


def answers(job: Job, folder: Path) -> list[dict]:
    job = job | {"tokens_per_microbatch": 12}
    with Worker(sys.executable, "benchmarks.our_worker", job, log=folder / "ours.log") as worker:
        return [worker.step() for _ in range(2)]


@pytest.mark.slow
def test_an_update_of_rows_that_no_model_sampled(tmp_path: Path) -> None:
    job = make_job(GIVEN, tmp_path) | {"kind": "update"}
    first, second = answers(job | given_rows(job, LENGTHS), tmp_path)
    assert first["lengths"] == second["lengths"] == sorted(LENGTHS)
    assert 0 < first["grad_norm"] != second["grad_norm"]
    assert "update" in second["parts"]
    assert "generate" not in second["parts"]


@pytest.mark.slow
@pytest.mark.engine
def test_a_whole_step_of_forced_lengths(tmp_path: Path) -> None:
    job = make_job(GIVEN, tmp_path) | {
        "kind": "step",
        "seeds": "step",
        "lengths": LENGTHS,
        "prompts": ["1234", "5678"],
    }
    for answer in answers(job, tmp_path):
        assert answer["lengths"] == sorted(LENGTHS)
        assert set(answer["parts"]) >= {"generate", "update", "push"}
