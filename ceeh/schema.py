"""Settings as frozen structured dataclasses: rules of fields, merging of YAML and `key=value`, validation.

A field's rule is (words, test); a value that breaks it is told by its path, the words and the value.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ceeh.component import ConfigError

Rule = tuple[str, Callable[[Any], bool]]
Schema = TypeVar("Schema")


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


def merged(files: Sequence[str | Path], overrides: Sequence[str], schema: type[Schema]) -> Schema:
    """The `schema` that `files` and `key=value` overrides fill, later ones winning, validated.

    Raises ConfigError for a missing file, broken YAML, an unknown or missing key, a wrong type or a
    value out of range.
    """
    filled = _empty(schema)
    for file in files:
        for key, value in _read(Path(file)).items():
            filled = _merge(filled, {key: value}, f"{file}: {key}")
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.replace("_", "").replace(".", "").isalnum():
            raise ConfigError(
                f"'{override}' is not an override; write key=value, e.g. optimizer.lr=1e-5"
            )
        filled = _merge(filled, OmegaConf.from_dotlist([override]), override)
    return _validated(filled, "")


def fill(schema: type[Schema], values: Mapping[str, Any], place: str) -> Schema:
    """The `schema` that `values` fill, validated as by `merged`; `place` is their config path."""
    filled = _empty(schema)
    for key, value in values.items():
        filled = _merge(filled, {key: value}, f"{place}.{key}")
    return _validated(filled, f"{place}.")


def _empty(schema: type) -> Any:
    filled = OmegaConf.structured(schema)
    OmegaConf.set_readonly(filled, False)
    return filled


def _validated(filled: Any, prefix: str) -> Any:
    if missing := sorted(OmegaConf.missing_keys(filled)):
        raise ConfigError(
            "\n".join(f"{prefix}{key} is missing and must be given" for key in missing)
        )
    config = OmegaConf.to_object(filled)
    if problems := list(_broken_rules(config, prefix)):
        raise ConfigError("\n".join(problems))
    return config


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no file '{path}'; paths are relative to {Path.cwd()}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, got a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _merge(filled: Any, addition: Any, place: str) -> Any:
    try:
        _forget_other_arguments(filled, addition)
        return OmegaConf.merge(filled, addition)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        words = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise ConfigError(f"{place}: {words}") from error


def _forget_other_arguments(filled: Any, addition: Any) -> None:
    """Another class does not inherit the arguments of the one whose place it takes."""
    if not OmegaConf.is_dict(filled) or not isinstance(addition, Mapping | DictConfig):
        return
    if "class_path" in addition and filled.get("class_path") not in (None, addition["class_path"]):
        OmegaConf.set_readonly(filled, False)
        filled.init_args = {}
    for key in addition:
        if key in filled and key != "init_args":  # an argument may be called class_path itself
            _forget_other_arguments(filled[key], addition[key])


def _broken_rules(node: Any, place: str) -> Iterator[str]:
    for item in fields(node):
        value, path = getattr(node, item.name), f"{place}{item.name}"
        if is_dataclass(value):
            yield from _broken_rules(value, f"{path}.")
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{path} must be a finite number, got {value}"
        elif (known := item.metadata.get("rule")) and not known[1](value):
            yield f"{path} must be {known[0]}, got {value!r}"
