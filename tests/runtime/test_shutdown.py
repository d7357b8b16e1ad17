"""Where a signal may interrupt a command, and how the command ends."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from ceeh.errors import ConfigError, RunError
from ceeh.runtime import shutdown
from ceeh.runtime.cli import run_command
from ceeh.runtime.shutdown import Stopped, signals_honored
from tests.endings import interrupt

PATIENCE = 30.0
"""Seconds after which a test that waits for a signal fails."""


def wait_for_signal() -> None:
    time.sleep(PATIENCE)
    pytest.fail("no signal came through")


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        (signal.SIGUSR1, 138),
        (signal.SIGUSR2, 140),
    ],
)
def test_a_signal_ends_a_command_at_once_with_its_status(
    number: int, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        os.kill(os.getpid(), number)
        return 0

    assert run_command(command, if_stopped="go on with ckpt_path=last", last=True) == status
    name = signal.Signals(number).name
    said = f"{name}: stopping ...\nstopped by {name}; go on with ckpt_path=last\n"
    assert capfd.readouterr().err == said


def test_further_signals_change_nothing_before_nor_after_the_end() -> None:
    cleaned = []

    def command() -> int:
        try:
            interrupt()
        finally:
            try:
                raise OSError  # clean-up has errors of its own
            except OSError:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(2 * shutdown.REMINDER_SECONDS)
            cleaned.append(True)
        return 0

    assert run_command(command, if_stopped="", last=True) == 130
    assert cleaned == [True]
    os.kill(os.getpid(), signal.SIGTERM)  # would end this process
    interrupt()


def test_a_terminal_that_is_gone_loses_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object, **settings: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("os.write", gone)
    monkeypatch.setattr("builtins.print", gone)

    def command() -> int:
        interrupt()
        return 0

    assert run_command(command, if_stopped="", last=True) == 130


def test_a_block_within_another_changes_nothing() -> None:
    with signals_honored():
        handler = signal.getsignal(signal.SIGTERM)
        with signals_honored():
            assert signal.getsignal(signal.SIGTERM) == handler
        assert signal.getsignal(signal.SIGTERM) == handler


def test_ranks_above_zero_let_rank_zero_leave_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(shutdown, "GRACE_SECONDS", 0.2)
    done = []

    def work() -> None:
        interrupt()
        done.append(1)
        wait_for_signal()

    assert stopped(work)
    assert done == [1]


def stopped(work: Callable[[], None]) -> bool:
    """Whether `work` ends in a stop."""
    with pytest.raises(Stopped) as raised, signals_honored():
        work()
    return raised.value.number == signal.SIGINT


def test_what_is_held_comes_to_its_end_first() -> None:
    done = []

    def work() -> None:
        with shutdown.held(), shutdown.held():
            interrupt()
            time.sleep(2 * shutdown.REMINDER_SECONDS)
            done.append(1)
        wait_for_signal()

    assert stopped(work)
    assert done == [1]


def test_a_delayed_signal_comes_at_the_release() -> None:
    done = []

    def work() -> None:
        shutdown.delay()
        interrupt()
        done.append(1)
        assert shutdown.signal_asked()
        shutdown.release()
        done.append(2)

    assert stopped(work)
    assert done == [1]
    assert not shutdown.signal_asked()


def test_a_delay_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "GRACE_SECONDS", 0.1)

    def work() -> None:
        shutdown.delay()
        interrupt()
        wait_for_signal()

    assert stopped(work)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_place_that_loses_the_exception_does_not_lose_the_signal() -> None:
    class Losing:
        def __del__(self) -> None:
            interrupt()

    def work() -> None:
        losing = Losing()
        del losing
        wait_for_signal()

    assert stopped(work)


def test_what_is_ignored_by_whoever_started_the_command_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals_honored():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_handlers_and_threads_are_given_back() -> None:
    before = [signal.getsignal(number) for number in shutdown.SIGNALS]
    with signals_honored():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in shutdown.SIGNALS] == before
    for thread in threading.enumerate():
        if thread.name == "stopping":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_a_thread_that_gets_no_signals_may_run_a_command() -> None:
    statuses: list[int] = []
    thread = threading.Thread(
        target=lambda: statuses.append(run_command(lambda: 3, if_stopped="", last=True))
    )
    thread.start()
    thread.join(PATIENCE)
    assert statuses == [3]


@pytest.mark.parametrize(("error", "status"), [(ConfigError, 2), (RunError, 1)])
def test_errors_for_people_end_without_a_trace(
    error: type[Exception], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error("the \x1b[31mword")

    assert run_command(command, if_stopped="", last=True) == status
    assert capsys.readouterr().err == "error: the \\x1b[31mword\n"


def failing_after(ask: Callable[[], None]) -> Callable[[], int]:
    def command() -> int:
        shutdown.delay()  # as between two optimizer steps
        ask()
        raise ConnectionError("a process of the run is gone")

    return command


def failing_clean_up() -> int:
    try:
        interrupt()
    finally:
        raise ConnectionError("a process of the run is gone")


@pytest.mark.parametrize("command", [failing_after(interrupt), failing_clean_up])
def test_an_error_of_a_command_that_stops_is_told_and_changes_nothing(
    command: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(command, if_stopped="", last=True) == 130
    words = "error: while stopping: ConnectionError: a process of the run is gone\nstopped by SIGINT; \n"
    assert capsys.readouterr().err == words


def test_an_error_of_a_command_that_nobody_stops_is_raised() -> None:
    with pytest.raises(ConnectionError):
        run_command(failing_after(lambda: None), if_stopped="", last=True)
