"""From a settings dataclass to YAML: whole, or with its secrets redacted."""

import re
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from ceeh.errors import ConfigError
from ceeh.runtime.text import HIDDEN, flatten, redact


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML that `load` reads back to the same."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(asdict(config))))


def to_public_yaml(config: Any) -> str:
    """`to_yaml` with secrets redacted, for files and servers; `check_not_redacted` guards readers."""
    return OmegaConf.to_yaml(OmegaConf.create(redact(_escaped(asdict(config)))))


def check_not_redacted(config: Any) -> None:
    """Raises ConfigError for a setting whose value was redacted when this configuration was written."""
    for key, value in flatten(asdict(config)).items():
        if HIDDEN in str(value):
            raise ConfigError(
                f"{key} holds '{HIDDEN}': the file was written without the secret; give it again, "
                f"{key}=..., or leave it to the environment variable of the library that reads it"
            )


def _escaped(node: Any) -> Any:
    """Escapes `${` in texts, which OmegaConf would read as an interpolation."""
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_escaped(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", node)
    return node
