"""Text that others wrote (data, models, files, servers) as a terminal may show it."""

import re
import sys
from collections.abc import Callable
from contextlib import suppress

from ceeh import stopping
from ceeh.component import ConfigError, RunError
from ceeh.provenance import redact

# Control characters but tab and newline, line separators, marks that turn the direction of writing,
# and halves of surrogate pairs: they move the cursor, rename the window, hide or reorder words.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    r"""`text` with what a terminal would act on spelt out, `\x1b` for an escape."""
    return UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


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
        with stopping.signals_honoured(last=last):
            try:
                return command()
            except Exception as error:
                if (number := stopping.signal_asked()) is None:
                    raise
                complain(f"while stopping: {type(error).__name__}: {error}")
                raise stopping.Stopped(number) from error
    except stopping.Stopped as stopped:
        tell(f"{stopped}; {if_stopped}")
        return stopped.status
    except ConfigError as error:
        complain(error)
        return 2
    except RunError as error:
        complain(error)
        return 1
