"""Settings as frozen structured dataclasses: rules of fields, merging of YAML and `key=value`, validation.

A field's rule is (words, test); a value that breaks it is told by its path, the words and the value.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ceeh.component import ConfigError
from ceeh.terminal import plain
from ceeh.untrusted_yaml import check_size, environment_unread, read_yaml

Rule = tuple[str, Callable[[Any], bool]]
Schema = TypeVar("Schema")
MAX_NAME_BYTES = 100
MAX_SHOWN = 200
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
        lambda value: bool(value.strip()) and plain(value) == value and value.isprintable(),
        default,
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
                f"'{override[:MAX_SHOWN]}' is not an override; write key=value, e.g. optimizer.lr=1e-5"
            )
        shown = override if len(override) <= MAX_SHOWN else f"{override[:MAX_SHOWN]}..."
        filled = _merge(filled, _override(override, shown), shown)
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
    try:
        with environment_unread():
            missing = sorted(OmegaConf.missing_keys(filled))
            config = None if missing else OmegaConf.to_object(filled)
    except OmegaConfBaseException as error:
        words = _words(error).partition(" full_key:")[0]
        words = words.rpartition("raised while resolving interpolation: ")[2]
        raise ConfigError(f"{prefix}{error.full_key}: {words}") from error
    if missing:
        raise ConfigError(
            "\n".join(f"{prefix}{key} is missing and must be given" for key in missing)
        )
    if problems := list(_broken_rules(config, prefix)):
        raise ConfigError("\n".join(problems))
    return config


def _read(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, got a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _override(override: str, shown: str) -> Any:
    try:
        check_size(override.partition("=")[2])
        return OmegaConf.to_container(OmegaConf.from_dotlist([override]))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{shown}: the value is not valid YAML: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """What OmegaConf says over several lines, in one."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _merge(filled: Any, addition: Mapping[Any, Any], place: str) -> Any:
    try:
        _forget_other_arguments(filled, addition)
        return OmegaConf.merge(filled, addition)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {_words(error)}") from error


def _forget_other_arguments(filled: Any, addition: Mapping[Any, Any]) -> None:
    """Another class does not inherit the arguments of the one whose place it takes."""
    if not OmegaConf.is_dict(filled):
        return
    if "class_path" in addition and filled.get("class_path") not in (None, addition["class_path"]):
        OmegaConf.set_readonly(filled, False)
        filled.init_args = {}
    for key in addition:
        if not isinstance(addition[key], Mapping) or key not in filled:
            continue
        if key != "init_args":  # an argument may be called class_path itself
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
