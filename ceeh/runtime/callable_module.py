"""A module that is called like the function of its own name in it."""

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """`ceeh.fit` is the package of `python -m ceeh.fit`; called, it is the function `ceeh.fit.fit`.

    So `from ceeh import fit` gives one object in whatever order modules are imported. A function exported
    as `ceeh.fit` would be replaced by the package at the first `import ceeh.fit`. Modules may set their
    class: https://docs.python.org/3/reference/datamodel.html#customizing-module-attribute-access.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return import_module, (self.__name__,)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def _function(self) -> Any:
        return vars(self)[self.__name__.rpartition(".")[2]]


def make_callable(name: str) -> None:
    """Makes the module `name` callable."""
    sys.modules[name].__class__ = CallableModule
