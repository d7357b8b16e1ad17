"""`setting` declares a configuration field: default, description and rule in one place."""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """`words` completes "must be ..."; `holds` tests a value. Null is tested by the field's type alone."""

    words: str
    holds: Callable[[Any], bool]


def setting(default: Any, description: str, rule: Rule | None = None, *, path: bool = False) -> Any:
    """A field of a settings class. `default` is a value, a settings class, or dataclasses.MISSING.

    The text of a `path`, or of a database's address, may start with `~`, the home folder.
    """
    metadata = {"description": description, "rule": rule, "path": path}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict) or is_dataclass(default):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check(rule: Rule, /, **arguments: Any) -> None:
    """Raises ValueError for an argument that breaks the rule."""
    for name, value in arguments.items():
        if not rule.holds(value):
            raise ValueError(f"{name} must be {rule.words}, got {value}")


def at_least(bound: float) -> Rule:
    return Rule(f"at least {bound}", lambda value: value >= bound)


def above(bound: float) -> Rule:
    return Rule(f"greater than {bound}", lambda value: value > bound)


def one_of(*options: str) -> Rule:
    return Rule(f"one of {', '.join(options)}", lambda value: value in options)


POSITIVE = above(0)
OPEN_UNIT = Rule("in (0, 1)", lambda value: 0 < value < 1)
UNIT = Rule("in [0, 1]", lambda value: 0 <= value <= 1)
UNIT_ABOVE_0 = Rule("in (0, 1]", lambda value: 0 < value <= 1)
UNIT_BELOW_1 = Rule("in [0, 1)", lambda value: 0 <= value < 1)
NOT_NEGATIVE = Rule("a finite number, at least 0", lambda value: 0 <= value < math.inf)
SEED = Rule("from 0 to 4294967295", lambda value: 0 <= value < 2**32)
"""What NumPy's generators take."""
TEXT = Rule("non-empty text", lambda value: bool(value.strip()))
LOCATION = Rule(
    "non-empty text without control characters",
    lambda value: bool(value.strip()) and value.isprintable(),
)
SCHEMES = r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://.|https?://[^/]|databricks|azureml://.|arn:."
TRACKING_URI = Rule(
    "an address of MLflow: sqlite:///FILE or another database, http(s)://HOST, or databricks",
    lambda value: value.isprintable() and re.match(SCHEMES, value) is not None,
)

MAX_NAME_BYTES = 100
FILE_NAME = Rule(
    "letters, digits, '.', '_' and '-', not starting with '.' or '-', at most "
    f"{MAX_NAME_BYTES} bytes and not 'latest'",
    lambda name: (
        all(c.isalnum() or c in "._-" for c in name)
        and 0 < len(name.encode()) <= MAX_NAME_BYTES
        and name[0] not in ".-"
        and name != "latest"
    ),
)
"""Names one folder inside another: it cannot leave it, and no command takes it for an option."""
