"""From YAML files and `key=value` to a validated settings dataclass."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from ceeh.config.packaged import find_config
from ceeh.config.typed import plain, shown, structured
from ceeh.errors import ConfigError
from ceeh.runtime.text import leaves

Schema = TypeVar("Schema")

MAX_BYTES = 2**20
MAX_VALUES = 100_000
"""With aliases expanded: nine lines of nested aliases make a billion values."""
MAX_SHOWN = 200
MAX_NUMBER = 3e38
"""Larger numbers are infinite in float32."""
EXTRA = "x-"
"""Top-level keys of a file that start like this hold anchors and are no settings, as in Docker Compose."""


def merged(files: Sequence[str | Path], overrides: Sequence[str], schema: type[Schema]) -> Schema:
    """The `schema` filled by `files` and `key=value` overrides, later ones win, validated.

    Mappings are merged; null removes a class from a mapping of classes, and an empty mapping empties
    one. A class that replaces another does not inherit its `init_args`. Raises ConfigError for a
    missing file, broken YAML, an unknown or missing key, a wrong type or a value out of range.
    """
    values = plain(schema)
    for file in files:
        values = _filled(values, read_yaml(find_config(file)), schema, f"{file}: ")
    for override in overrides:
        values = _filled(values, _nested(override), schema, "")
    return _validated(values, schema, "")


def fill(schema: type[Schema], values: Mapping[str, Any], place: str) -> Schema:
    """The `schema` filled by `values`, validated as by `merged`; `place` is their config path."""
    structured(schema, values, f"{place}.", partial=True)
    return _validated(_overlaid(plain(schema), values, schema, ""), schema, f"{place}.")


def _filled(
    values: dict[str, Any], addition: Mapping[Any, Any], schema: type, source: str
) -> dict[str, Any]:
    try:
        structured(schema, addition, "", partial=True)
        return _overlaid(values, addition, schema, "")
    except ConfigError as error:
        raise ConfigError(f"{source}{error}") from error


def _nested(override: str) -> dict[str, Any]:
    """{"a": {"b": value}} of `a.b=value`. Raises ConfigError for anything else."""
    key, equals, text = override.partition("=")
    cut = override if len(override) <= MAX_SHOWN else f"{override[:MAX_SHOWN]}..."
    names = key.split(".")
    if not equals or not all(name.replace("_", "").replace("-", "").isalnum() for name in names):
        raise ConfigError(f"'{cut}' is not an override; write key=value, e.g. optimizer.lr=1e-5")
    try:
        value = parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{cut}: the value is not valid YAML: {_line(error)}") from error
    for name in reversed(names):
        value = {name: value}
    return value


def _overlaid(
    values: Mapping[Any, Any], addition: Mapping[Any, Any], annotation: Any, prefix: str
) -> dict[Any, Any]:
    """`values` with `addition` merged into it; `annotation` is their type."""
    hints = get_type_hints(annotation) if is_dataclass(annotation) else {}
    each = (get_args(annotation) or (None, None))[1] if not hints else None
    merged = dict(values)
    if "class_path" in hints and addition.get("class_path") not in (None, values.get("class_path")):
        merged["init_args"] = {}
    for key, value in addition.items():
        old, place = merged.get(key), f"{prefix}{key}"
        if value is None and is_dataclass(each):
            if key not in merged:
                there = ", ".join(map(str, merged)) or "none"
                raise ConfigError(
                    f"{place}: null removes an entry, but '{key}' is not there; there: {there}"
                )
            del merged[key]
        elif isinstance(value, Mapping) and (value or is_dataclass(hints.get(key, each))):
            old = old if isinstance(old, Mapping) else {}
            merged[key] = _overlaid(old, value, hints.get(key, each), f"{place}.")
        else:
            merged[key] = value
    return merged


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file in UTF-8, as plain containers with interpolations unresolved.

    An empty file is an empty mapping. Top-level keys that start with `x-` are left out. Raises
    ConfigError for a file that is missing, unreadable or too large, for invalid YAML, for a tag, and
    for anything but a mapping.
    """
    if path.is_dir() or not path.exists():
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
        values = parse(content.decode("utf-8-sig"))
    # UnicodeDecodeError and that of a number of 5,000 digits are ValueErrors.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, got a {type(values).__name__}")
    return {key: value for key, value in values.items() if not str(key).startswith(EXTRA)}


CORE = {"null", "bool", "int", "float", "str", "seq", "map"}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no` is text, `1e-5` a number, and `010`, `1_000` and `12:30` are text.

    In PyYAML's YAML 1.1 these are false, text, 8, 1000 and 750. Tags and repeated keys are refused.
    """

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  # PyYAML's name for the class attribute
    yaml_constructors: dict = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in CORE
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found duplicate key {key.value}", key.start_mark
                )
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]+)?"
        r"|(?:0|[1-9][0-9]*)[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first)
    )


def _text(loader: _Loader, node: Any) -> str:
    """Escapes such as "\\ud83d\\ude00", as JSON writes one character. A half of it is a ValueError."""
    return loader.construct_scalar(node).encode("utf-16", "surrogatepass").decode("utf-16")


_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def parse(text: str) -> Any:
    """The containers of a YAML text. Raises YAMLError, and ValueError as `check_size` does."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        check_size(root)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def check_size(root: yaml.Node) -> None:
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

    size(root)


def _validated(values: dict[str, Any], schema: type[Schema], prefix: str) -> Schema:
    config = structured(schema, _resolved(values, prefix), prefix)
    if problems := list(_broken_rules(config, prefix)):
        raise ConfigError("\n".join(problems))
    return config


def _resolved(values: dict[str, Any], prefix: str) -> Any:
    """`values` with `${a.b}` replaced by the value at a.b, and `\\${` by `${`."""
    if not any(isinstance(value, str) and "${" in value for _, value in leaves(values)):
        return values
    with environment_unread():
        try:  # OmegaConf.create, too, reads the interpolations
            return OmegaConf.to_container(OmegaConf.create(values), resolve=True)
        except OmegaConfBaseException as error:
            key = str(error.full_key or "")
            text = dict(leaves(values)).get(key)
            refused = re.search(r"\$\{oc\.env:.*is refused.*", str(error))
            problem = (
                refused[0]
                if refused
                else "the interpolation cannot be resolved; name a setting that exists, as "
                r"${rollouts.steps}, or write \${ for the characters themselves"
                + (f", got {shown(text)}" if text is not None else "")
            )
            raise ConfigError(f"{prefix}{key}: {problem}") from error


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
        elif isinstance(value, float) and not (math.isfinite(value) and abs(value) < MAX_NUMBER):
            yield f"{path} must be a finite number, below {MAX_NUMBER:g} in size, got {value}"
        elif rule and value is not None and not rule.holds(value):
            or_null = ", or null" if type(None) in get_args(item.type) else ""
            given = list(value) if isinstance(value, Mapping) else value
            yield f"{path} must be {rule.words}{or_null}, got {given!r}"
        elif isinstance(value, Mapping):
            for key, each in value.items():
                if is_dataclass(each):
                    yield from _broken_rules(each, f"{path}.{key}.")


def _line(error: BaseException) -> str:
    """The message of PyYAML on one line."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
