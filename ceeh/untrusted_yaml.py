"""YAML as a stranger may have written it: no tags, no bombs, nothing of the environment."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from ceeh.component import ConfigError

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
