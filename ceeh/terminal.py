"""Text that others wrote (data, models, files, servers) as a terminal may show it."""

import re
import sys
from collections.abc import Callable

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
    print(f"error: {plain(redact(str(error)))}", file=sys.stderr)


def run_command(command: Callable[[], int], *, if_stopped: str) -> int:
    """A command's exit status: its own, 2 for a ConfigError, 1 for a RunError, 128 + n for signal n.

    `if_stopped` says how what a signal ended is gone on with.
    """
    try:
        with stopping.signals_honoured():
            try:
                return command()
            except Exception:
                stopping.release()  # what another process of the run caused by stopping first
                raise
    except stopping.Stopped as stopped:
        print(f"{stopped}; {if_stopped}", file=sys.stderr)
        return stopped.status
    except ConfigError as error:
        complain(error)
        return 2
    except RunError as error:
        complain(error)
        return 1
