"""The two errors that commands report without a stack trace, and wording for errors of other code."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESUME = "then resume (a run with ckpt_path=last)"
"""The cure's end where runs and evaluations share the code that fails."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk without space."""
LOCKED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a read-only disk, or of a place that belongs to another user."""


class ConfigError(ValueError):
    """The user's input is wrong: config path, rule, value and cure in one sentence."""


class RunError(RuntimeError):
    """The run cannot continue although its configuration is valid: what happened, and the cure."""


@contextmanager
def user_code(code: object, problem: str) -> Iterator[None]:
    """Turns an exception raised inside by the user's `code` into a ConfigError that starts with `problem`.

    ConfigErrors, and exceptions of a class or function of ceeh, pass unchanged.
    """
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if str(getattr(code, "__module__", "")).startswith("ceeh."):
            raise
        raise ConfigError(f"{problem} ({describe_error(error)})") from error


def describe_error(error: BaseException) -> str:
    """An error of the user's code: its type, message, file and line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    words = f": {error}" if str(error) else ""
    return f"{type(error).__name__}{words}, {Path(last.filename).name} line {last.lineno}"


def first_line(error: Exception) -> str:
    """The first line of the message of another library's error."""
    return (str(error).splitlines() or [type(error).__name__])[0]
