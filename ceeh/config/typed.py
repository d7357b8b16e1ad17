"""Values against type annotations: settings against their fields, arguments against a signature.

An error is one sentence: config path, rule, value, cure.
"""

import types
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ceeh.errors import ConfigError
from ceeh.runtime.paths import at_home

MAX_SHOWN = 80
MAX_INTEGER = 2**63
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
}


def shown(value: Any) -> str:
    """A value as YAML writes it, shortened."""
    names = {None: "null", True: "true", False: "false"}
    plain = value is None or isinstance(value, bool)
    text = names[value] if plain else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def type_words(annotation: Any) -> str:
    """What completes "must be ...": `a number`, `one of a, b`, `a list of text`."""
    options, origin = get_args(annotation), get_origin(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(shown_option, options))}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_words, options))
    if origin in (list, tuple, Sequence):
        each = options[0] if options else Any
        return "a list" + (f" of {type_words(each)}" if each in WORDS else "")
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return "a mapping"
    if is_dataclass(annotation):
        return f"a mapping of {', '.join(item.name for item in fields(annotation))}"
    return WORDS.get(annotation, str(getattr(annotation, "__name__", annotation)))


def shown_option(option: Any) -> str:
    return option if isinstance(option, str) else shown(option)


def typed(value: Any, annotation: Any, place: str, *, rule: str = "", partial: bool = False) -> Any:
    """`value` as `annotation` has it: whole numbers become floats, mappings settings classes.

    Annotations other than numbers, text, true or false, null, literals, containers and settings
    classes accept anything. `rule` are words on the value. `partial`: of one of several files, where
    settings may be missing, null removes a class, and interpolations are not resolved yet.
    Raises ConfigError naming `place`, the config path.
    """
    if partial and isinstance(value, str) and "${" in value:
        return value
    if not isinstance(annotation, Hashable):  # not a type
        return value
    if isinstance(annotation, type) and is_dataclass(annotation) and isinstance(value, Mapping):
        return structured(annotation, value, f"{place}.", partial=partial)
    origin, options = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _one_of(value, options, annotation, place, rule=rule, partial=partial)
    if origin in (list, tuple, Sequence) and isinstance(value, list | tuple):
        each = options[0] if options and (origin is not tuple or options[1:] == (...,)) else Any
        items = (typed(v, each, f"{place}[{i}]", partial=partial) for i, v in enumerate(value))
        return tuple(items) if origin is tuple else list(items)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {
            key: None
            if partial and item is None and is_dataclass(options[1])
            else typed(item, options[1], f"{place}.{key}", partial=partial)
            for key, item in value.items()
        }
    if annotation is float and type(value) is int and abs(value) < MAX_INTEGER:
        return float(value)
    if annotation is str and type(value) is int:
        return str(value)
    if not _accepts(annotation, value):
        words = _words(annotation, rule)
        raise ConfigError(f"{place} must be {words}, got {shown(value)}{_cure(annotation, value)}")
    return value


def _words(annotation: Any, rule: str) -> str:
    """The type, and the rule on its values; a rule on text says what text."""
    if rule and annotation in (str, str | None):
        return rule + (" or null" if annotation is not str else "")
    return type_words(annotation) + (f", {rule}" if rule else "")


def _one_of(value: Any, options: tuple, annotation: Any, place: str, **rest: Any) -> Any:
    """`value` as the first of `options` that accepts it as it is, else the first that converts it."""
    if any(option in WORDS and type(value) is option for option in options):
        return typed(value, type(value), place)
    problems = []
    for option in options:
        try:
            return typed(value, option, place, **rest)
        except ConfigError as error:
            problems.append(error)
    others = [option for option in options if option is not types.NoneType]
    if len(others) == 1 and value is not None and get_origin(others[0]) is not None:
        raise problems[options.index(others[0])]  # names the item that is wrong
    words = _words(annotation, rest["rule"])
    cure = next((cure for option in others if (cure := _cure(option, value))), "")
    raise ConfigError(f"{place} must be {words}, got {shown(value)}{cure}")


def _accepts(annotation: Any, value: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Literal:
        return any(
            type(value) is type(option) and value == option for option in get_args(annotation)
        )
    if annotation is int:
        return type(value) is int and abs(value) < MAX_INTEGER
    if annotation is types.NoneType or annotation is None:
        return value is None
    if annotation in WORDS:
        return type(value) is annotation
    kinds = {list: list, tuple: list, Sequence: list, dict: Mapping, Mapping: Mapping}
    if kind := kinds.get(origin) or kinds.get(annotation):
        return isinstance(value, kind)
    return not is_dataclass(annotation)


def _cure(annotation: Any, value: Any) -> str:
    if annotation in (int, float) and isinstance(value, str):
        digits = value.replace("_", "").lstrip("+").lstrip("0") or "0"
        return f"; write {digits}" if digits.isascii() and digits.isdigit() else ""
    if annotation is int and type(value) is float and value.is_integer() and value < MAX_INTEGER:
        return f"; write {int(value)}"
    if annotation is int and type(value) is int:
        return "; it must fit 64 bits"
    if annotation is str and isinstance(value, bool | float):
        return "; put it in quotes if it is text"
    return ""


def structured(
    schema: type, values: Mapping[Any, Any], prefix: str, *, partial: bool = False
) -> Any:
    """The settings class `schema` of `values`, which are checked but not made an object if `partial`.

    `prefix` is their config path with its dot, or empty. Raises ConfigError for an unknown key, a
    wrong type and, unless `partial`, missing settings, all of them, and broken rules, all of them.
    """
    hints, own = get_type_hints(schema), {item.name: item for item in fields(schema)}
    for key in values:
        if key not in own:
            raise ConfigError(_unknown(str(key), list(own), prefix))
    given = {}
    for name, value in values.items():
        rule = own[name].metadata.get("rule")
        words = rule.words if rule else ""
        given[name] = typed(value, hints[name], f"{prefix}{name}", rule=words, partial=partial)
        if own[name].metadata.get("path") and isinstance(value, str):
            given[name] = at_home(value)
    if partial:
        return given
    missing = [
        f"{prefix}{name} is missing and must be given"
        for name, item in own.items()
        if name not in given and item.default is item.default_factory is MISSING
    ]
    if missing:
        raise ConfigError("\n".join(missing))
    return schema(**given)


def _unknown(key: str, known: Sequence[str], prefix: str) -> str:
    near = get_close_matches(key, known, n=1)
    there = f"the settings here are {', '.join(known)}"
    cure = f"did you mean {prefix}{near[0]}?" if near else there
    return f"{prefix}{key} is not a setting; {cure}"


def plain(schema: type) -> dict[str, Any]:
    """The defaults of `schema` as nested containers, without those that must be given."""
    values = {}
    for item in fields(schema):
        if item.default_factory is not MISSING:
            values[item.name] = _plain(item.default_factory())
        elif item.default is not MISSING:
            values[item.name] = _plain(item.default)
    return values


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
