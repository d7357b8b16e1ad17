"""A user's reward function as the grader of a worker process (`worker.py`); a task is (prompt, response).

The function is imported, or the class built, only here: its state ends with this process.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

MAX_SHOWN = 40


def build(
    class_path: str, init_args: dict[str, Any], sys_path: Sequence[str]
) -> Callable[[Any, str], list[Any]]:
    """The grader. Raises ConfigError, with a place below `init_args`, if it cannot be one."""
    sys.path[:] = sys_path
    from ceeh.config.component import Component
    from ceeh.errors import ConfigError

    component = Component(class_path, init_args)
    function, keywords = component.imported("init_args"), init_args
    if inspect.isclass(function):
        function, keywords = component.build("init_args"), {}
    if not callable(function):
        raise ConfigError(
            f"init_args.class_path: '{class_path}' must be a function of prompt and response, or a"
            " class whose instances are called with them"
        )
    try:
        inspect.signature(function).bind("prompt", "response", **keywords)
    except TypeError as error:
        raise ConfigError(
            f"init_args.class_path: '{class_path}' must take prompt and response"
            f"{' and init_args' if keywords else ''} ({error})"
        ) from error
    except ValueError:
        pass  # written in C, without a signature
    return partial(grade, partial(function, **keywords))


def grade(function: Callable[[Any, str], object], prompt: Any, response: str) -> list[Any]:
    """["ok", score], or ["invalid", description] for anything but one number in [0, 1]."""
    score = function(prompt, response)
    if isinstance(score, Real) and 0 <= float(score) <= 1:
        return ["ok", float(score)]
    kind = type(score).__name__
    return ["invalid", f"the score must be a number in [0, 1], got {kind} {score!r:.{MAX_SHOWN}}"]
