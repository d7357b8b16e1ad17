"""From YAML files and `key=value` to a validated settings dataclass."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from ceeh.config.packaged import find_config
from ceeh.errors import ConfigError

Schema = TypeVar("Schema")

MAX_BYTES = 2**20
MAX_VALUES = 100_000
"""With aliases expanded: nine lines of nested aliases make a billion values."""
MAX_SHOWN = 200


def merged(files: Sequence[str | Path], overrides: Sequence[str], schema: type[Schema]) -> Schema:
    """The `schema` filled by `files` and `key=value` overrides, later ones win, validated.

    Raises ConfigError for a missing file, broken YAML, an unknown or missing key, a wrong type or a
    value out of range.
    """
    filled = _empty(schema)
    for file in files:
        for key, value in read_yaml(find_config(file)).items():
            filled = _merge(filled, {key: value}, f"{file}: ", str(key))
    for override in overrides:
        key, equals, value = override.partition("=")
        shown = override if len(override) <= MAX_SHOWN else f"{override[:MAX_SHOWN]}..."
        if not equals or not key.replace("_", "").replace(".", "").isalnum():
            raise ConfigError(
                f"'{shown}' is not an override; write key=value, e.g. optimizer.lr=1e-5"
            )
        try:
            check_size(value)
            addition: Any = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{shown}: the value is not valid YAML: {_line(error)}") from error
        filled = _merge(filled, addition, "", shown)
    return _validated(filled, "")


def fill(schema: type[Schema], values: Mapping[str, Any], place: str) -> Schema:
    """The `schema` filled by `values`, validated as by `merged`; `place` is their config path."""
    filled = _empty(schema)
    for key, value in values.items():
        filled = _merge(filled, {key: value}, "", f"{place}.{key}")
    return _validated(filled, f"{place}.")


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file in UTF-8, as plain containers with interpolations unresolved.

    Raises ConfigError for a file that is missing, unreadable or too large, for invalid YAML, for a
    tag, and for anything but a mapping.
    """
    if not path.is_file():
        what = (
            "is a folder" if path.is_dir() else f"is not there; paths are relative to {Path.cwd()}"
        )
        raise ConfigError(f"no file '{path}': it {what}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"'{path}' is bigger than {MAX_BYTES} bytes, the limit for a configuration"
        )
    try:
        text = content.decode("utf-8-sig")
        check_size(text)
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    # OmegaConf's errors and a number of 5,000 digits are ValueErrors; a lone number is an OSError.
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, got a {type(values).__name__}")
    return values


def check_size(text: str) -> None:
    """Raises ValueError where aliases contain themselves or expand to more than MAX_VALUES values."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None  # until its children are counted
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            children = (n for part in parts for n in (part if isinstance(part, tuple) else (part,)))
            sizes[id(node)] = 1 + sum(map(size, children))
        found = sizes[id(node)]
        if found is None:
            raise ValueError("an alias is within its own anchor")
        if found > MAX_VALUES:
            raise ValueError(f"its aliases make more than {MAX_VALUES} values")
        return found

    if (root := yaml.compose(text, yaml.SafeLoader)) is not None:
        size(root)


def _empty(schema: type) -> Any:
    filled = OmegaConf.structured(schema)
    OmegaConf.set_readonly(filled, False)
    return filled


def _merge(filled: Any, addition: Mapping[Any, Any], source: str, place: str) -> Any:
    try:
        _forget_other_arguments(filled, addition)
        return OmegaConf.merge(filled, addition)
    except OmegaConfBaseException as error:
        # The key that is wrong, below the one that was given.
        key = error.full_key if source and error.full_key else place
        raise ConfigError(f"{source}{key}: {_line(error)}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{source}{place}: {_line(error)}") from error


def _forget_other_arguments(filled: Any, addition: Mapping[Any, Any]) -> None:
    """A class that replaces another does not inherit its `init_args`."""
    if not OmegaConf.is_dict(filled):
        return
    if "class_path" in addition and filled.get("class_path") not in (None, addition["class_path"]):
        OmegaConf.set_readonly(filled, False)
        filled.init_args = {}
    for key, value in addition.items():
        # An argument may be called class_path itself.
        if isinstance(value, Mapping) and key in filled and key != "init_args":
            _forget_other_arguments(filled[key], value)


def _validated(filled: Any, prefix: str) -> Any:
    try:
        with environment_unread():
            missing = sorted(OmegaConf.missing_keys(filled))
            config = None if missing else OmegaConf.to_object(filled)
    except OmegaConfBaseException as error:
        problem = _line(error).rpartition("raised while resolving interpolation: ")[2]
        raise ConfigError(f"{prefix}{error.full_key}: {problem}") from error
    problems = [f"{prefix}{key} is missing and must be given" for key in missing]
    if problems := problems or list(_broken_rules(config, prefix)):
        raise ConfigError("\n".join(problems))
    return config


@contextmanager
def environment_unread() -> Iterator[None]:
    """Inside, `${oc.env:NAME}` is an error.

    A resolved configuration is written into config.yaml, reports, the tracking server and the model
    card: a stranger's file could publish any secret of the environment.
    """

    def refuse(name: str, *default: object) -> None:
        raise ConfigError(
            f"${{oc.env:{name}}} is refused: a resolved configuration is published with the run, and "
            f'the environment holds secrets; give the value, key="${name}" on the command line, or '
            "let the library that needs the secret read its own variable"
        )

    OmegaConf.register_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_resolver("oc.env", oc.env, replace=True)


def _broken_rules(node: Any, place: str) -> Iterator[str]:
    for item in fields(node):
        value, path, rule = (
            getattr(node, item.name),
            f"{place}{item.name}",
            item.metadata.get("rule"),
        )
        if is_dataclass(value):
            yield from _broken_rules(value, f"{path}.")
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{path} must be a finite number, got {value}"
        elif rule and value is not None and not rule.holds(value):
            or_null = ", or null" if type(None) in get_args(item.type) else ""
            yield f"{path} must be {rule.words}{or_null}, got {value!r}"


def _line(error: BaseException) -> str:
    """The message of OmegaConf or PyYAML on one line, without OmegaConf's account of types."""
    text = str(error).partition("\n    full_key:")[0]
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
