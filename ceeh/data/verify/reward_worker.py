"""A user's reward function as a judge in a worker process (`verify_worker.py`).

A task is (prompt, response). The function is imported, or the class built, in here and nowhere else:
what it keeps between answers is this process's own and goes with it.
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
    """The judge. Raises ConfigError, its place from `init_args` on, for what cannot be one."""
    sys.path[:] = sys_path
    from ceeh.config.component import Component
    from ceeh.errors import ConfigError

    component = Component(class_path, init_args)
    found = component.imported("init_args")
    function = component.build("init_args") if inspect.isclass(found) else found
    keywords = {} if inspect.isclass(found) else init_args
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
            f"{' beside init_args' if keywords else ''} ({error})"
        ) from error
    except ValueError:
        pass  # written in C, without a signature
    return partial(judge, partial(function, **keywords))


def judge(function: Callable[[Any, str], object], prompt: Any, response: str) -> list[Any]:
    """["ok", score], or ["invalid", words] for anything but one number in [0, 1]."""
    score = function(prompt, response)
    if isinstance(score, Real) and 0 <= float(score) <= 1:
        return ["ok", float(score)]
    kind = type(score).__name__
    return ["invalid", f"the score must be a number in [0, 1], got {kind} {score!r:.{MAX_SHOWN}}"]
