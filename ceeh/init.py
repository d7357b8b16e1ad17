"""ceeh init DIR: copies the packaged configurations into a folder, to be changed there."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ceeh.config.packaged import CONFIGS, packaged_configs
from ceeh.errors import ConfigError
from ceeh.runtime.cli import run_command


def copy_configs(folder: Path) -> list[Path]:
    """Copies every packaged configuration below `folder`; returns the files written.

    Raises ConfigError where one of them exists: nothing is replaced, and nothing written.
    """
    targets = {name: folder / name for name in packaged_configs()}
    if taken := [str(path) for path in targets.values() if path.exists()]:
        raise ConfigError(f"'{taken[0]}' exists already; give another folder")
    for name, path in targets.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CONFIGS / name, path)
        except OSError as error:
            raise ConfigError(f"'{path}' cannot be written ({error.strerror})") from error
    return list(targets.values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ceeh init", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("configs"), metavar="DIR")
    given = parser.parse_args(arguments)

    def command() -> int:
        written = copy_configs(given.folder)
        print(f"{len(written)} configurations in {given.folder}; start with:")
        print(f"  ceeh fit --config {given.folder / 'ceeh.yaml'}")
        return 0

    return run_command(command, if_stopped="run it again", last=arguments is None, at_once=True)


if __name__ == "__main__":
    sys.exit(main())
