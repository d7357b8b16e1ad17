"""metrics.jsonl: a line per rollout step, through crash and resume."""

import json
import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from ceeh.run.folder import RunFolder
from ceeh.run.metrics_file import JSONLLogger, read_lines, read_rows
from tests.limits import largest_file

FOREIGN = (
    b'{"reward": 1}',
    b'{"rollout_step": "2"}',
    b'{"rollout_step": 2.5}',
    b'{"rollout_step": 2, "loss/policy": "low"}',
    b"[1, 2]",
    b"9",
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
)
"""Lines that no run wrote."""


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def log_steps(logger: JSONLLogger, steps: range) -> None:
    """What Lightning sends: a step's metrics, then an evaluation without `rollout/step`."""
    for step in steps:
        logger.log_metrics({"rollout/step": float(step), "reward/mean": step / 10}, step=step - 1)
        logger.log_metrics({"eval/accuracy": step / 100}, step=step - 1)
        logger.save()


def put_in(file: Path, foreign: Sequence[bytes], after: int) -> None:
    """Writes the `foreign` lines below the first `after` lines of `file`."""
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:after], *foreign, *lines[after:], b""]))


def test_lines_that_no_run_wrote_are_skipped_by_every_reader(tmp_path):
    log_steps(JSONLLogger(tmp_path), range(1, 4))
    file, before = tmp_path / "metrics.jsonl", rows_of(tmp_path)
    put_in(file, FOREIGN, after=2)
    put_in(file, FOREIGN, after=len(FOREIGN) + 3)
    assert read_rows(tmp_path) == before
    assert RunFolder(tmp_path).last_rollout_step() == 3
    for line in read_lines(file):
        assert file.read_bytes()[line.offset :].startswith(line.content)
        assert next(read_lines(file, line.offset)) == line


def test_a_resume_and_a_new_base_remove_lines_that_no_run_wrote(tmp_path):
    for folder in (tmp_path / "whole", tmp_path / "foreign"):
        foreign = FOREIGN if folder.name == "foreign" else ()
        resumed_after_two_steps(folder)
        put_in(folder / "metrics.jsonl", foreign, after=1)
        resumed = JSONLLogger(folder)
        with resumed.of_base([].append):
            resumed.log_metrics({"eval/accuracy": 0.4321}, step=0)
        log_steps(resumed, range(3, 5))
        put_in(folder / "metrics.jsonl", foreign, after=2)
        resumed = JSONLLogger(folder)
        resumed.resume_from_step(3)
        log_steps(resumed, range(4, 6))
    contents = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "foreign")]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("accuracy", [0.5, 0.4321, 0.4, 1])
def test_a_base_measured_again_replaces_the_line_of_step_0_alone(tmp_path, accuracy):
    logger, told = JSONLLogger(tmp_path), []
    with logger.of_base(told.append):
        logger.log_metrics({"eval/accuracy": 0.5}, step=0)
    log_steps(logger, range(1, 3))
    before = rows_of(tmp_path)
    assert before[0] == {"rollout_step": 0, "global_step": 0, "eval/accuracy": 0.5}
    resumed = JSONLLogger(tmp_path)
    resumed.resume_from_step(2)
    with resumed.of_base(told.append):
        resumed.log_metrics({"eval/accuracy": accuracy}, step=0)
    base = {"rollout_step": 0, "global_step": 0, "eval/accuracy": accuracy}
    assert rows_of(tmp_path) == [base, *before[1:]]
    assert told == ([] if accuracy == 0.5 else [base])
    # The lines after it are still found, though they begin elsewhere.
    resumed.log_metrics({"eval/tokens": 9.0}, step=2)
    log_steps(resumed, range(3, 4))
    assert rows_of(tmp_path)[1:3] == [before[1], before[2] | {"eval/tokens": 9.0}]
    assert [row["rollout_step"] for row in rows_of(tmp_path)] == [0, 1, 2, 3]


def test_a_base_measured_again_keeps_no_metric_of_the_first(tmp_path):
    for names in (("eval/pass@8",), ("eval/pass@4", "eval/entropy")):
        logger = JSONLLogger(tmp_path)
        with logger.of_base(print):
            for name in names:
                logger.log_metrics({name: 0.5}, step=0)
    ids = {"rollout_step": 0, "global_step": 0}
    assert rows_of(tmp_path) == [ids | {"eval/pass_at_4": 0.5, "eval/entropy": 0.5}]


def test_a_base_whose_line_was_never_written_gets_one(tmp_path):
    log_steps(JSONLLogger(tmp_path), range(1, 3))
    resumed, told = JSONLLogger(tmp_path), []
    with resumed.of_base(told.append):
        resumed.log_metrics({"eval/accuracy": 0.4}, step=0)
    assert [row["rollout_step"] for row in rows_of(tmp_path)] == [0, 1, 2]
    assert rows_of(tmp_path)[:1] == told


def resumed_after_two_steps(folder: Path) -> JSONLLogger:
    logger = JSONLLogger(folder)
    logger.log_metrics({"eval/accuracy": 0.5}, step=0)
    log_steps(logger, range(1, 3))
    return JSONLLogger(folder)


def test_a_base_that_could_not_be_told_stays_to_be_told(tmp_path):
    def killed(line):
        raise KeyboardInterrupt

    resumed, told = resumed_after_two_steps(tmp_path), []
    for tell in (killed, told.append):
        with suppress(KeyboardInterrupt), resumed.of_base(tell):
            resumed.log_metrics({"eval/accuracy": 0.4}, step=0)
    assert (
        told
        == [{"rollout_step": 0, "global_step": 0, "eval/accuracy": 0.4}]
        == rows_of(tmp_path)[:1]
    )


def test_a_base_that_fails_to_be_measured_leaves_the_file_and_takes_no_later_metric(tmp_path):
    resumed, told = resumed_after_two_steps(tmp_path), []
    before = rows_of(tmp_path)
    with suppress(KeyboardInterrupt), resumed.of_base(told.append):
        resumed.log_metrics({"eval/accuracy": 0.4}, step=0)
        raise KeyboardInterrupt
    assert rows_of(tmp_path) == before
    log_steps(resumed, range(3, 4))
    assert [row["rollout_step"] for row in rows_of(tmp_path)] == [0, 1, 2, 3]
    assert told == []


def test_a_base_measured_again_on_a_full_disk_replaces_its_line_later(tmp_path):
    for folder in (tmp_path / "whole", tmp_path / "full"):
        resumed = resumed_after_two_steps(folder)
        limit = 10 if folder.name == "full" else 10_000
        with largest_file(limit), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with resumed.of_base([].append):
                resumed.log_metrics({"eval/accuracy": 0.4321}, step=0)
            log_steps(resumed, range(3, 4))
        assert len(caught) == (folder.name == "full")
        log_steps(resumed, range(4, 5))
    contents = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "full")]
    assert contents[0] == contents[1]


def test_each_rollout_step_is_one_line_after_any_number_of_calls(tmp_path):
    logger = JSONLLogger(tmp_path)
    logger.log_metrics({"eval/pass@8": 0.5}, step=0)
    log_steps(logger, range(1, 3))
    zero = {"rollout_step": 0, "global_step": 0, "eval/pass_at_8": 0.5}  # before the first step
    lines = [
        {"rollout/step": 1.0, "reward/mean": 0.1, "eval/accuracy": 0.01},
        {"rollout/step": 2.0, "reward/mean": 0.2, "eval/accuracy": 0.02},
    ]
    counts = [{"rollout_step": step, "global_step": step - 1} for step in (1, 2)]
    assert rows_of(tmp_path) == [zero, counts[0] | lines[0], counts[1] | lines[1]]


def test_undefined_and_infinite_values_are_null(tmp_path):
    JSONLLogger(tmp_path).log_metrics({"a": math.nan, "b": -math.inf, "c": 1.0}, step=0)
    assert rows_of(tmp_path) == [
        {"rollout_step": 0, "global_step": 0, "a": None, "b": None, "c": 1.0}
    ]


def test_a_resumed_run_writes_the_file_of_an_uninterrupted_one(tmp_path):
    log_steps(JSONLLogger(tmp_path / "whole"), range(1, 7))
    log_steps(JSONLLogger(tmp_path / "stopped"), range(1, 5))  # the checkpoint was of step 2
    path = tmp_path / "stopped" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"rollout_step": 5, "rewa')  # killed while writing
    resumed = JSONLLogger(tmp_path / "stopped")
    resumed.resume_from_step(2)
    log_steps(resumed, range(3, 7))
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_an_evaluation_just_after_a_resume_joins_the_checkpoints_line(tmp_path):
    log_steps(JSONLLogger(tmp_path), range(1, 4))
    resumed = JSONLLogger(tmp_path)
    resumed.resume_from_step(2)
    resumed.log_metrics({"eval/tokens": 7.0}, step=2)
    assert [row["rollout_step"] for row in rows_of(tmp_path)] == [1, 2]
    assert rows_of(tmp_path)[-1] | {"eval/tokens": 7.0, "reward/mean": 0.2} == rows_of(tmp_path)[-1]


def test_a_line_lost_in_a_kill_is_restored_from_the_checkpoint(tmp_path):
    log_steps(JSONLLogger(tmp_path / "whole"), range(1, 4))
    stopped = JSONLLogger(tmp_path / "stopped")
    log_steps(stopped, range(1, 2))
    # In the checkpoint, never written.
    row = stopped.row({"rollout/step": 2.0, "reward/mean": 0.2}, 1)
    resumed = JSONLLogger(tmp_path / "stopped")
    resumed.resume_from_step(2, row)
    resumed.log_metrics({"eval/accuracy": 0.02}, step=1)
    log_steps(resumed, range(3, 4))
    paths = [tmp_path / name / "metrics.jsonl" for name in ("stopped", "whole")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    # A line that is there is kept: it may know more.
    JSONLLogger(tmp_path / "stopped").resume_from_step(3, {"rollout_step": 3})
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_lines_are_written_later_when_the_disk_was_full(tmp_path):
    log_steps(JSONLLogger(tmp_path / "whole"), range(1, 6))
    logger, path = JSONLLogger(tmp_path / "full"), tmp_path / "full" / "metrics.jsonl"
    log_steps(logger, range(1, 2))
    with (
        largest_file(path.stat().st_size + 50),
        pytest.warns(UserWarning, match=r"cannot be written \(File too large\)") as caught,
    ):
        log_steps(logger, range(2, 5))
    assert len(caught) == 1
    log_steps(logger, range(5, 6))
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
