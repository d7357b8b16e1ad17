"""How a command ends: errors on standard error, and the exit status."""

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from ceeh.errors import FULL, LOCKED, ConfigError, RunError, describe_error
from ceeh.runtime import shutdown
from ceeh.runtime.slurm import adopt_slurm
from ceeh.runtime.text import escape, redact


def complain(error: object) -> None:
    """Prints `error: ...` on standard error, escaped and without secrets."""
    _print(f"error: {escape(redact(str(error)))}")


def run_command(
    command: Callable[[], int], *, if_stopped: str, last: bool, at_once: bool = False
) -> int:
    """The exit status of `command`: its own, 2 for a ConfigError, 1 for a RunError, 128 + n for
    termination signal n, as for the SIGPIPE of a reader that has left, 1 for a full disk or a place that
    may not be written. Nothing of ceeh raises SystemExit inside: one is user code's, to which Lightning's
    hooks belong, and 2, too.

    `if_stopped` is the hint printed when a signal stops the command. After the `last` command of a
    process that was stopped, signals stay ignored. An error during a stop is printed and does not
    change the status: another process of the run may have left first. `at_once`: see `signals_honored`.
    """
    adopt_slurm()
    try:
        with shutdown.signals_honored(last=last, at_once=at_once):
            try:
                status = command()
                sys.stdout.flush()
                return status
            except Exception as error:
                if (number := shutdown.requested()) is None:
                    raise
                complain(f"while stopping: {type(error).__name__}: {error}")
                raise shutdown.Stopped(number) from error
    except shutdown.Stopped as stopped:
        _print(f"{stopped}; {if_stopped}")
        return stopped.status
    except SystemExit as error:
        complain(
            f"code that the configuration names ended the process ({describe_error(error)}); let it raise "
            f"an exception that says what is wrong; {if_stopped}"
        )
        return 2
    except BrokenPipeError:
        if not _reader_left():
            raise
        return 128 + signal.SIGPIPE
    except (ConfigError, RunError) as error:
        complain(error)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        if error.errno not in (*FULL, *LOCKED):
            raise
        place = f": '{error.filename}'" if error.filename else ""
        complain(f"{error.strerror}{place}; make room, or the place writable; {if_stopped}")
        return 1


def _reader_left() -> bool:
    """Whether the reader of standard output is gone, as `head` after its lines; then nothing goes there."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _print(line: str) -> None:
    with suppress(OSError):  # the reader may be gone
        print(line, file=sys.stderr, flush=True)
