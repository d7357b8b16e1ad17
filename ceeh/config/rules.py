"""Rules of configuration fields: each a sentence and a test of the value."""

from collections.abc import Callable
from dataclasses import field
from typing import Any

from ceeh.runtime.text import escape

Rule = tuple[str, Callable[[Any], bool]]

MAX_NAME_BYTES = 100

FILE_NAME = (
    f"letters, digits, '.', '_' and '-', not starting with '.' or '-', at most {MAX_NAME_BYTES} bytes and "
    "not 'latest'"
)


def rule(words: str, holds: Callable[[Any], bool], default: Any) -> Any:
    """A field whose value "must be" `words`, which `holds` decides."""
    return field(default=default, metadata={"rule": (words, holds)})


def positive(default: float | int) -> Any:
    return rule("greater than 0", lambda value: value > 0, default)


def at_least(bound: float | int, default: Any) -> Any:
    return rule(f"at least {bound}", lambda value: value is None or value >= bound, default)


def open_unit(default: float) -> Any:
    return rule("in (0, 1)", lambda value: 0 < value < 1, default)


def one_of(*names: str) -> Any:
    return rule("one of " + ", ".join(names), lambda value: value in names, names[0])


def text_or_null(default: str | None = None) -> Any:
    return rule(
        "a text, or null for none", lambda value: value is None or bool(value.strip()), default
    )


def is_file_name(text: str) -> bool:
    """Whether `text` can name a folder within another: no way out of it, no option of a command."""
    return (
        all(c.isalnum() or c in "._-" for c in text)
        and 0 < len(text.encode()) <= MAX_NAME_BYTES
        and text[0] not in ".-"
        and text != "latest"
    )


def file_name(default: str) -> Any:
    return rule(FILE_NAME, is_file_name, default)


def location(default: str) -> Any:
    """A field for a path or an address, which may lie anywhere and is shown and written."""
    return rule(
        "a text without control characters",
        lambda value: bool(value.strip()) and escape(value) == value and value.isprintable(),
        default,
    )
