"""Text that others wrote (data, models, files, servers) as a terminal may show it."""

import sys
from collections.abc import Callable
from contextlib import suppress

from ceeh.errors import ConfigError, RunError
from ceeh.runtime import shutdown
from ceeh.runtime.text import plain, redact


def complain(error: object) -> None:
    """`error: ...` on standard error, as every command ends that was given something wrong."""
    tell(f"error: {plain(redact(str(error)))}")


def tell(line: str) -> None:
    """On standard error, if anyone reads it still."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def run_command(command: Callable[[], int], *, if_stopped: str, last: bool) -> int:
    """A command's exit status: its own, 2 for a ConfigError, 1 for a RunError, 128 + n for signal n.

    `if_stopped` says how what a signal ended is gone on with; after the `last` command of a process
    signals stay ignored when one has ended it. An error of a command that was asked to stop is told and
    changes nothing: another process of the run may have left first.
    """
    try:
        with shutdown.signals_honored(last=last):
            try:
                return command()
            except Exception as error:
                if (number := shutdown.requested()) is None:
                    raise
                complain(f"while stopping: {type(error).__name__}: {error}")
                raise shutdown.Stopped(number) from error
    except shutdown.Stopped as stopped:
        tell(f"{stopped}; {if_stopped}")
        return stopped.status
    except ConfigError as error:
        complain(error)
        return 2
    except RunError as error:
        complain(error)
        return 1
