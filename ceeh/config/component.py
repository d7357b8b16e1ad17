"""A class named in YAML: `class_path` imports it, `init_args` are its arguments."""

import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ceeh.config.typed import typed
from ceeh.errors import ConfigError, user_code
from ceeh.runtime.paths import expanded

MOVED = {"ceeh.data.vllm_engine.VLLMEngine": "ceeh.data.engine.VLLMEngine"} | {
    f"ceeh.modules.{module}.{name}": f"ceeh.modules.shaping.{name}"
    for module, names in {
        "length_rewards": "HistoryAware SampleOptimalLength AdaptivePenalty MinMaxLength",
        "length_limits": "LengthLimit SoftOverlong TargetLength",
    }.items()
    for name in names.split()
}
"""Class paths of version 0.1, which run folders may still name, to their present ones."""


@dataclass(frozen=True)
class Component:
    """A class by its path, `package.module.Class` or `path/to/file.py:Class`, and its arguments."""

    class_path: str = ""
    init_args: dict[str, Any] = field(default_factory=dict)

    def build(self, place: str, **context: Any) -> Any:
        """An instance from `init_args` and those entries of `context` that its signature names.

        Raises ConfigError naming `place`, the config path, for a missing class or a wrong argument.
        """
        factory, arguments = self.fitted(place, **context)
        with user_code(factory, f"{place} ({self.class_path}) fails while it is built"):
            try:
                return factory(**arguments)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{place} ({self.class_path}): {error}") from error

    def fitted(self, place: str, **context: Any) -> tuple[Any, dict[str, Any]]:
        """The class and the arguments that `build` would call it with, of the types it declares.

        Raises as `build` does.
        """
        factory = self.imported(place)
        try:
            parameters = _signature(factory).parameters.values()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{place}.class_path: {self.class_path} is not a Python class"
            ) from error
        accepted = {
            p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            for name in self.init_args.keys() - accepted.keys():
                raise ConfigError(
                    f"{place}.init_args.{name} is not an argument of {self.class_path}; it takes: "
                    + (", ".join(n for n in accepted if n not in context) or "none")
                )
        arguments = {
            name: typed(value, accepted[name].annotation, f"{place}.init_args.{name}")
            if name in accepted
            else value
            for name, value in self.init_args.items()
        }
        given = {n: value for n, value in context.items() if n in accepted} | arguments
        missing = [n for n, p in accepted.items() if p.default is p.empty and n not in given]
        if missing:
            raise ConfigError(
                f"{place}.init_args lacks {', '.join(missing)}, which {self.class_path} needs"
            )
        return factory, given

    def imported(self, place: str) -> Any:
        """What `class_path` names. Raises ConfigError naming `place` where nothing can be imported."""
        if new := MOVED.get(self.class_path):
            raise ConfigError(
                f"{place}.class_path: {self.class_path} is now {new}; change it in the configuration, "
                f"or add {place}.class_path={new}"
            )
        source, _, name = self.class_path.rpartition(":" if ".py:" in self.class_path else ".")
        if not source or not name:
            raise ConfigError(
                f"{place}.class_path must be package.module.Class or path/to/file.py:Class, "
                f"got '{self.class_path}'"
            )
        with user_code(None, f"{place}.class_path: '{source}' fails while it is loaded"):
            try:
                module = (_load_file if source.endswith(".py") else importlib.import_module)(source)
            except (ImportError, FileNotFoundError) as error:
                raise ConfigError(
                    f"{place}.class_path: cannot import '{source}' ({error})"
                ) from error
        found = getattr(module, name, None)
        if found is None:
            public = ", ".join(
                n
                for n, v in vars(module).items()
                if inspect.isclass(v) and v.__module__.startswith(module.__name__)
            )
            raise ConfigError(
                f"{place}.class_path: '{source}' has no '{name}'; its classes are: {public or 'none'}"
            )
        return found


def _signature(factory: Any) -> inspect.Signature:
    try:
        return inspect.signature(factory, eval_str=True)
    except NameError:  # an annotation that is imported for type checkers only
        return inspect.signature(factory)


def _load_file(source: str) -> Any:
    path = expanded(source)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; paths are relative to {Path.cwd()}")
    name = f"ceeh_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
