"""Runs side by side: order, resume, failures, signals. The steps are small programs in real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ceeh.runtime import shutdown
from ceeh.study.runner import Runner, Step, Task

SAVES = """
import pathlib, signal, sys, time
def save(number, frame):
    pathlib.Path({saved!r}).write_text(str(number))
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
pathlib.Path({ready!r}).touch()
time.sleep(60)
"""
"""A run that takes a minute and, told to stop, saves and ends."""


def program(folder: Path, name: str, body: str = "") -> Step:
    """Writes its name and times to `events`, does `body`, and leaves its result."""
    text = f"""
import os, pathlib, sys, time
def note(word):
    with open({str(folder / "events")!r}, "a") as events:
        events.write(f"{{word}} {name}\\n")
note("start")
{body}
note("end")
pathlib.Path({str(folder / name)!r}).touch()
"""
    done: Callable[[], bool] = (folder / name).exists
    return Step(words="working", command=[sys.executable, "-c", text], done=done)


def task(folder: Path, name: str, *steps: Step) -> Task:
    return Task(name=name, steps=steps, log=folder / "logs" / f"{name}.log", result=lambda: "done")


def events(folder: Path) -> list[str]:
    file = folder / "events"
    return file.read_text().splitlines() if file.exists() else []


def wait_for(file: Path, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.02)


def test_one_slot_runs_the_tasks_in_their_order_and_a_tasks_steps_in_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        task(tmp_path, name, program(tmp_path, f"{name}1"), program(tmp_path, f"{name}2"))
        for name in "ba"
    ]
    assert Runner(tasks, [{}]).run() == {}
    order = [f"{word} {name}" for name in ("b1", "b2", "a1", "a2") for word in ("start", "end")]
    assert events(tmp_path) == order
    shown = capsys.readouterr().out
    assert "[1/2] b: done; 0:00:0" in shown
    assert "1 left, ETA" in shown


def test_two_slots_run_two_tasks_at_once_each_with_its_environment(tmp_path: Path) -> None:
    """Each of the first two waits for the other to start: one after another they would wait forever."""
    meeting = """
end = time.monotonic() + 20
pathlib.Path({here!r}).write_text(os.environ["SLOT"])
while not pathlib.Path({other!r}).exists():
    assert time.monotonic() < end
    time.sleep(0.02)
"""
    pairs = [("a", "b"), ("b", "a"), ("c", "a")]
    tasks = [
        task(
            tmp_path,
            one,
            program(
                tmp_path,
                one,
                meeting.format(
                    here=str(tmp_path / f"{one}.slot"), other=str(tmp_path / f"{other}.slot")
                ),
            ),
        )
        for one, other in pairs
    ]
    assert Runner(tasks, [{"SLOT": "0"}, {"SLOT": "1"}]).run() == {}
    assert {(tmp_path / f"{name}.slot").read_text() for name in "ab"} == {"0", "1"}
    assert max(events(tmp_path).index(f"start {name}") for name in "ab") < 2  # c came later


def test_what_ended_is_not_run_again_and_a_task_goes_on_with_its_first_unfinished_step(
    tmp_path: Path,
) -> None:
    for name in ("whole1", "whole2", "half1"):
        (tmp_path / name).touch()
    tasks = [
        task(tmp_path, name, program(tmp_path, f"{name}1"), program(tmp_path, f"{name}2"))
        for name in ("whole", "half")
    ]
    assert Runner(tasks, [{}]).run() == {}
    assert events(tmp_path) == ["start half2", "end half2"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('error: objective.shaping fails')", "status 1 after"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL after"),
        ("sys.exit(0)", "it ended without its result after"),
    ],
)
def test_a_failing_run_is_told_with_its_log_and_ends_no_other(
    body: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        task(tmp_path, "first", program(tmp_path, "first")),
        task(tmp_path, "bad", program(tmp_path, "bad", body), program(tmp_path, "never")),
        task(tmp_path, "last", program(tmp_path, "last")),
    ]
    failures = Runner(tasks, [{}]).run()
    assert list(failures) == ["bad"]
    assert words in failures["bad"]
    assert str(tmp_path / "logs" / "bad.log") in failures["bad"]
    assert ("error: objective.shaping fails" if "error" in body else "no output") in failures["bad"]
    assert "end last" in events(tmp_path)
    assert "start never" not in events(tmp_path)
    assert "[1/3] bad: failed" in capsys.readouterr().out


def saving(folder: Path, name: str) -> Task:
    text = SAVES.format(saved=str(folder / f"{name}.saved"), ready=str(folder / f"{name}.ready"))
    step = Step(words="training", command=[sys.executable, "-c", text], done=(folder / name).exists)
    return task(folder, name, step)


def test_a_signal_stops_all_runs_after_they_saved_and_starts_no_other(tmp_path: Path) -> None:
    tasks = [saving(tmp_path, name) for name in ("a", "b", "c")]

    def interrupt() -> None:
        for name in "ab":
            wait_for(tmp_path / f"{name}.ready")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with shutdown.signals_honored():
        thread.start()
        with pytest.raises(shutdown.Stopped) as stopped:
            Runner(tasks, [{}, {}]).run()
    thread.join()
    assert stopped.value.status == 130
    assert [(tmp_path / f"{name}.saved").read_text() for name in "ab"] == ["2", "2"]
    assert not (tmp_path / "c.ready").exists()


def test_a_run_saves_and_ends_when_the_study_is_killed(tmp_path: Path) -> None:
    text = SAVES.format(saved=str(tmp_path / "saved"), ready=str(tmp_path / "ready"))
    study = f"""
import pathlib, sys
from ceeh.study.runner import Runner, Step, Task
step = Step(words="training", command=[sys.executable, "-c", {text!r}], done=lambda: False)
log = pathlib.Path({str(tmp_path / "a.log")!r})
Runner([Task(name="a", steps=[step], log=log, result=str)], [{{}}]).run()
"""
    with subprocess.Popen([sys.executable, "-c", study]) as process:
        wait_for(tmp_path / "ready", 60)
        process.kill()
    wait_for(tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGTERM))


def test_a_task_that_another_study_runs_is_left_to_it(tmp_path: Path) -> None:
    same = task(tmp_path, "a", program(tmp_path, "a"))
    runner = Runner([saving(tmp_path, "a")], [{}])
    runner._start(runner.waiting.popleft(), 0)
    assert "another process runs it" in Runner([same], [{}]).run()["a"]
    late = Runner([same], [{}])
    runner._stop(signal.SIGTERM)
    assert Runner([same], [{}]).run() == {}
    assert late.run() == {}
    assert events(tmp_path) == ["start a", "end a"]
