"""Text for terminals and files: values shortened, secrets redacted, control characters escaped."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ceeh.errors import ConfigError


def show(value: Any) -> str:
    """Type and value for a message, at most 40 characters of it."""
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def pattern_with_group(pattern: str, setting: str) -> re.Pattern[str]:
    """`pattern`, compiled. Raises ConfigError, naming `setting`, unless it is valid and has a group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{setting} '{pattern}' is not a regular expression ({error})") from error
    if not compiled.groups:
        raise ConfigError(f"{setting} '{pattern}' must have a group (...) around the answer")
    return compiled


SECRET_NAMES = {
    *("secret", "secrets", "password", "passwords", "passwd", "pwd", "passphrase"),
    *("credential", "credentials", "apikey", "authorization", "auth", "bearer"),
}
SECRET_PAIRS = ("api_key", "access_key", "private_key", "signing_key", "encryption_key")
SECRET_TEXTS = (
    r"(?<=://)\S+(?=@)",  # user:password@
    r"(?<=[?&;])(?:[\w-]*(?:token|key|secret|password|passwd|auth|sig|signature))=[^&;\s]+",
    # Tokens of Hugging Face, OpenAI and similar services, GitHub, GitLab, AWS, Slack, JWT.
    r"\bhf_\w{16,}|\bsk-[\w-]{16,}|\bgh[oprsu]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}",
    r"\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{10,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+",
)
HIDDEN = "[redacted]"


def redact(value: Any, key: str = "") -> Any:
    """`value` without secrets, in nested mappings and lists too.

    A value is redacted when its key contains the word secret, password, credential, api_key or
    similar, or the word token where the value is text: `max_prompt_tokens: 512` stays. In other texts
    `user:password@` and `?token=` of addresses and tokens of well-known services are redacted.
    """
    if isinstance(value, Mapping):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, key) for item in value]
    if value is None or isinstance(value, bool):
        return value
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", key).lower().replace("-", "_").split("_")
    if SECRET_NAMES & set(words) or any(pair in "_".join(words) for pair in SECRET_PAIRS):
        return HIDDEN
    if not isinstance(value, str):
        return value
    if {"token", "tokens"} & set(words):
        return HIDDEN
    for secret in SECRET_TEXTS:
        value = re.sub(secret, HIDDEN, value)
    return value


def flatten(tree: Mapping[str, Any], joint: str = ".", prefix: str = "") -> dict[str, Any]:
    """Leaves by their path: {"a": {"b": 1}} -> {"a.b": 1}. An empty mapping has none."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, joint, f"{prefix}{name}{joint}")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested containers with its path: a.b[0]."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from leaves(value, f"{place}[{index}]")
    else:
        yield place, node


# Control characters except tab and newline, line separators, direction marks and surrogates: they move
# the cursor, rename the window, hide or reorder words.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape(text: str) -> str:
    r"""`text` with the characters that a terminal acts on spelled out, e.g. `\x1b` for an escape."""
    return UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


def storable(text: str) -> str:
    """`text` with lone surrogates escaped: a model may emit them, and UTF-8 has none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
