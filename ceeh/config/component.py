"""A class named in YAML: `class_path` is the registry, `init_args` its arguments."""

import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ceeh.errors import ConfigError, describe_error

_SHAPING = "ceeh.modules.shaping"
MOVED = {"ceeh.data.vllm_engine.VLLMEngine": "ceeh.data.engine.VLLMEngine"} | {
    f"ceeh.modules.{module}.{name}": f"{_SHAPING}.{name}"
    for module, names in (
        (
            "length_rewards",
            ("HistoryAware", "SampleOptimalLength", "AdaptivePenalty", "MinMaxLength"),
        ),
        ("length_limits", ("LengthLimit", "SoftOverlong", "TargetLength")),
    )
    for name in names
}
"""Class paths of version 0.1 that run folders still name, and where the classes are now."""


@dataclass(frozen=True)
class Component:
    """A class named by import path, `package.module.Class` or `path/to/file.py:Class`, and its arguments."""

    class_path: str = ""
    init_args: dict[str, Any] = field(default_factory=dict)

    def build(self, place: str, **context: Any) -> Any:
        """An instance made of `init_args` and those entries of `context` that its signature asks for.

        Raises ConfigError naming `place` when the class is missing or an argument does not fit.
        """
        factory, given = self.fitted(place, **context)
        try:
            return factory(**given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{place} ({self.class_path}): {error}") from error
        except Exception as error:
            if self.class_path.startswith("ceeh."):
                raise
            # The user's own class: whatever it raises while it is built.
            raise ConfigError(
                f"{place} ({self.class_path}) fails while it is built ({describe_error(error)})"
            ) from error

    def fitted(self, place: str, **context: Any) -> tuple[Any, dict[str, Any]]:
        """The class and the arguments that `build` would give it, which raises as this does."""
        factory = self._import(place)
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{place}.class_path: {self.class_path} is no Python class"
            ) from error
        accepted = {
            n: p
            for n, p in signature.parameters.items()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
        anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        for name in self.init_args:
            if name not in accepted and not anything:
                raise ConfigError(
                    f"{place}.init_args.{name} is not an argument of {self.class_path}; it takes: "
                    + (", ".join(n for n in accepted if n not in context) or "none")
                )
        given = {
            name: value for name, value in context.items() if name in accepted
        } | self.init_args
        missing = [n for n, p in accepted.items() if p.default is p.empty and n not in given]
        if missing:
            raise ConfigError(
                f"{place}.init_args lacks {', '.join(missing)}, which {self.class_path} needs"
            )
        return factory, given

    def _import(self, place: str) -> Any:
        if self.class_path in MOVED:
            raise ConfigError(
                f"{place}.class_path: {self.class_path} is now {MOVED[self.class_path]}; change it in the "
                f"configuration, or add {place}.class_path={MOVED[self.class_path]}"
            )
        source, _, name = self.class_path.rpartition(":" if ".py:" in self.class_path else ".")
        if not source or not name:
            raise ConfigError(
                f"{place}.class_path must be package.module.Class or path/to/file.py:Class, "
                f"got '{self.class_path}'"
            )
        try:
            module = (
                _load_file(Path(source))
                if source.endswith(".py")
                else importlib.import_module(source)
            )
        except (ImportError, FileNotFoundError) as error:
            raise ConfigError(f"{place}.class_path: cannot import '{source}' ({error})") from error
        except (Exception, SystemExit) as error:  # the user's own file: whatever it raises
            raise ConfigError(
                f"{place}.class_path: '{source}' fails while it is loaded ({describe_error(error)})"
            ) from error
        if name not in vars(module):
            public = ", ".join(
                n
                for n, v in vars(module).items()
                if inspect.isclass(v) and v.__module__.startswith(module.__name__)
            )
            raise ConfigError(
                f"{place}.class_path: '{source}' has no '{name}'; its classes are: {public or 'none'}"
            )
        return vars(module)[name]


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
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
