"""Settings as frozen structured dataclasses: rules of fields, merging of YAML and `key=value`, validation.

A field's rule is (words, test); a value that breaks it is told by its path, the words and the value.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from ceeh.errors import ConfigError

MAX_BYTES = 2**20
MAX_VALUES = 100_000
"""Of a file with its aliases written out: nine lines of them make a thousand million."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file in UTF-8, in plain containers, interpolations as they stand.

    Raises ConfigError for a file that is missing, unreadable or too big, for broken YAML, and for a
    tag: only plain values are made.
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
        raise ConfigError(f"'{path}' is bigger than {MAX_BYTES} bytes, which no configuration is")
    try:
        text = content.decode("utf-8-sig")
        check_size(text)
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    # A number of 5,000 digits is a ValueError, as OmegaConf's own errors are; a lone number an OSError.
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error


def check_size(text: str) -> None:
    """Raises ValueError where aliases would multiply into more than MAX_VALUES values, or into themselves."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            inside = (
                each for part in parts for each in (part if isinstance(part, tuple) else (part,))
            )
            sizes[id(node)] = 1 + sum(map(size, inside))
        found = sizes[id(node)]
        if found is None:
            raise ValueError("an alias stands within its own anchor")
        if found > MAX_VALUES:
            raise ValueError(f"its aliases make more than {MAX_VALUES} values")
        return found

    if (root := yaml.compose(text, yaml.SafeLoader)) is not None:
        size(root)


@contextmanager
def environment_unread() -> Iterator[None]:
    """Inside, `${oc.env:NAME}` is an error.

    What a configuration resolves to is written into config.yaml, reports, the tracking server and
    the model card: a file of somebody else's could name any secret of the environment.
    """

    def refuse(name: str, *default: object) -> None:
        raise ConfigError(
            f"${{oc.env:{name}}} is refused: a resolved configuration is written down and published with "
            f'the run, and the environment holds secrets; give the value, key="${name}" on the command '
            "line, or let the library that needs the secret read its own variable"
        )

    OmegaConf.register_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_resolver("oc.env", oc.env, replace=True)


Schema = TypeVar("Schema")

MAX_SHOWN = 200


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
