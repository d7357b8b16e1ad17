"""The configurations that come with the package: found by name where no such file lies at hand."""

from difflib import get_close_matches
from pathlib import Path

from ceeh.errors import ConfigError
from ceeh.runtime.paths import expanded

CONFIGS = Path(__file__).parents[1] / "configs"
"""In a checkout a link to `configs/`, in an installed package a copy of it."""


def find_config(given: str | Path) -> Path:
    """`given` if it exists, else the packaged file of that name, with or without `configs/` in front.

    Raises ConfigError where neither is there, naming the nearest packaged file.
    """
    path = expanded(given)
    if path.exists():
        return path
    names = packaged_configs()
    name = path.as_posix().removeprefix("configs/")
    if name in names:
        return CONFIGS / name
    near = get_close_matches(name, names, n=1)
    hint = (
        f"did you mean the packaged '{near[0]}'" if near else "packaged: ceeh.yaml, math.yaml, ..."
    )
    raise ConfigError(
        f"no file '{given}': it is not in {Path.cwd()}, and no packaged configuration has that name "
        f"({hint})"
    )


def packaged_configs() -> list[str]:
    """Their names, such as `paper/7b_me.yaml`."""
    return sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
