"""python -m ceeh.tracking FOLDER ...: delivers to MLflow what its server has not received."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ceeh.errors import ConfigError
from ceeh.runtime.cli import run_command
from ceeh.runtime.paths import at_home
from ceeh.runtime.text import HIDDEN, redact
from ceeh.tracking.state import STATE, read_state


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ceeh.tracking", description=__doc__)
    parser.add_argument("run", nargs="+", type=Path, help="folder of a run or an evaluation")
    parser.add_argument(
        "--uri", type=at_home, help="deliver everything to this server instead of the run's"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")

    def command() -> int:
        complete = [deliver(run, given.uri or read_state(run).get("uri")) for run in given.run]
        return 0 if all(complete) else 1

    return run_command(
        command, if_stopped="run the same command again", last=arguments is None, at_once=True
    )


def deliver(run: Path, uri: str | None) -> bool:
    """Returns whether the server has everything."""
    if not (state := read_state(run)):
        raise ConfigError(f"'{run}' has no {STATE}: it was not tracked")
    uri = uri or str(state["uri"])
    if HIDDEN in uri:
        raise ConfigError(
            f"the server's address held a secret, which '{run}' does not keep ({uri}); give it with --uri"
        )
    from ceeh.tracking.logger import GuardedMLFlowLogger  # takes seconds: after the checks

    names = {key: state[key] for key in ("experiment", "run_name")}
    logger = GuardedMLFlowLogger(uri=uri, folder=run, **names)
    waiting = logger.num_waiting
    complete = logger.deliver()
    print(f"{run}: {waiting - logger.num_waiting} of {waiting} entries sent to {redact(uri)}")
    return complete


if __name__ == "__main__":
    sys.exit(main())
