"""Paths as a user types them, where no shell has replaced a leading `~`, as in output=~/runs."""

import os
from pathlib import Path


def at_home(place: str) -> str:
    """A path, or the address of a database's file, with the home folder for a leading `~`.

    Unchanged where there is no such user: files may be called so, and Path.expanduser raises.
    """
    scheme, separator, path = place.rpartition(":///")
    return f"{scheme}{separator}{os.path.expanduser(path)}"


def expanded(place: str | Path) -> Path:
    return Path(at_home(str(place)))
