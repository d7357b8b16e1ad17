"""The two errors that a command reports without a stack trace, and helpers that word the errors of others."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def first_line(error: Exception) -> str:
    """What an error of another library says, without the rest of its paragraph."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class ConfigError(ValueError):
    """A mistake in the configuration: place, rule, value and cure in one sentence."""


class RunError(RuntimeError):
    """A run that cannot go on, though nothing in its configuration is wrong: what happened, and the cure."""


@contextmanager
def users_code(thing: object, words: str, *, place: str = "") -> Iterator[None]:
    """Inside, what a class of the user's own raises becomes a ConfigError; one of ceeh raises itself."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if type(thing).__module__.startswith("ceeh."):
            raise
        raise ConfigError(
            f"{place}{type(thing).__name__} {words} ({describe_error(error)})"
        ) from error


def describe_error(error: BaseException) -> str:
    """An error of the user's own code: its kind, its words and the line that it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}, {Path(last.filename).name} line {last.lineno}"
