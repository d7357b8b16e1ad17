"""When a termination signal takes effect, and how the command ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from ceeh.errors import ConfigError, RunError
from ceeh.runtime import shutdown
from ceeh.runtime.cli import run_command
from ceeh.runtime.shutdown import Stopped, signals_honored
from tests.endings import interrupt

ASKED = "stopping at the next safe point; a second signal ends the process at once"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140)],
)
def test_a_signal_ends_a_command_at_its_next_check_with_its_status(
    number: int, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    reached = []

    def command() -> int:
        os.kill(os.getpid(), number)
        reached.append(shutdown.requested())
        shutdown.check()
        pytest.fail("the check let it through")

    assert run_command(command, if_stopped="resume with ckpt_path=last", last=True) == status
    assert reached == [number]
    name = signal.Signals(number).name
    said = f"{name}: {ASKED}\nstopped by {name}; resume with ckpt_path=last\n"
    assert capfd.readouterr().err == said


def test_a_command_that_is_done_before_its_next_check_has_its_own_status() -> None:
    def command() -> int:
        interrupt()
        return 3

    assert run_command(command, if_stopped="", last=True) == 3


def test_a_repeat_within_a_second_changes_nothing_even_after_the_end() -> None:
    cleaned = []

    def command() -> int:
        try:
            interrupt()
            shutdown.check()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)
        return 0

    assert run_command(command, if_stopped="", last=True) == 130
    os.kill(os.getpid(), signal.SIGTERM)  # would end this process
    assert cleaned == [True]


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = """
import os, signal, time
from ceeh.runtime import shutdown
shutdown.REPEAT_SECONDS = 0.1
with shutdown.signals_honored():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    print("working", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "working\n")
    assert done.stderr == f"SIGTERM: {ASKED}\n"


def test_a_closed_terminal_loses_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object, **settings: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("os.write", gone)
    monkeypatch.setattr("builtins.print", gone)
    assert run_command(failing_after(interrupt), if_stopped="", last=True) == 130


def test_a_block_within_another_changes_nothing() -> None:
    with signals_honored():
        with signals_honored():
            interrupt()
        with pytest.raises(Stopped, match="stopped by SIGINT"):
            shutdown.check()


@pytest.mark.parametrize(
    ("rank", "grace", "wait"), [("0", 30.0, 30.0), ("1", 0.0, 3.0), ("1", 30.0, 33.0)]
)
def test_an_update_that_changed_weights_and_ranks_above_zero_have_a_grace(
    monkeypatch: pytest.MonkeyPatch, rank: str, grace: float, wait: float
) -> None:
    monkeypatch.setenv("RANK", rank)
    seconds = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    with signals_honored():
        interrupt()
        for seconds[0] in (0.0, wait - 0.1):
            shutdown.check(grace)
        seconds[0] = wait
        with pytest.raises(Stopped):
            shutdown.check(grace)


def test_what_the_parent_process_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals_honored():
        interrupt()
        shutdown.check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_handlers_are_restored_and_the_request_forgotten() -> None:
    before = [signal.getsignal(number) for number in shutdown.SIGNALS]
    with signals_honored():
        assert signal.getsignal(signal.SIGTERM) not in before
        interrupt()
    assert [signal.getsignal(number) for number in shutdown.SIGNALS] == before
    assert shutdown.requested() is None


def test_a_thread_that_gets_no_signals_may_run_a_command() -> None:
    statuses: list[int] = []
    thread = threading.Thread(
        target=lambda: statuses.append(run_command(lambda: 3, if_stopped="", last=True))
    )
    thread.start()
    thread.join(30)
    assert statuses == [3]


@pytest.mark.parametrize(("error", "status"), [(ConfigError, 2), (RunError, 1)])
def test_user_errors_end_without_a_traceback(
    error: type[Exception], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error("the \x1b[31mword")

    assert run_command(command, if_stopped="", last=True) == status
    assert capsys.readouterr().err == "error: the \\x1b[31mword\n"


def failing_after(ask: Callable[[], None]) -> Callable[[], int]:
    def command() -> int:
        ask()
        raise ConnectionError("a process of the run is gone")

    return command


def failing_cleanup() -> int:
    try:
        interrupt()
        shutdown.check()
    finally:
        raise ConnectionError("a process of the run is gone")


@pytest.mark.parametrize("command", [failing_after(interrupt), failing_cleanup])
def test_an_error_during_a_stop_is_printed_and_does_not_change_the_status(
    command: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(command, if_stopped="", last=True) == 130
    words = "error: while stopping: ConnectionError: a process of the run is gone\nstopped by SIGINT; \n"
    assert capsys.readouterr().err == words


def test_an_error_without_a_stop_is_raised() -> None:
    with pytest.raises(ConnectionError):
        run_command(failing_after(lambda: None), if_stopped="", last=True)
