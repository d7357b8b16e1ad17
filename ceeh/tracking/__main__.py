"""python -m ceeh.tracking FOLDER: sends what a run could not deliver to MLflow."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ceeh.runtime.text import HIDDEN, redact
from ceeh.tracking.outbox import STATE, Outbox, read_state
from ceeh.tracking.sender import Sender


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ceeh.tracking",
        description="Sends to MLflow what its server did not take while a run was going on.",
    )
    parser.add_argument("run", nargs="+", help="a run's folder, or an evaluation's")
    parser.add_argument("--uri", help="another server than the run's: it gets everything")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    complete = True
    for run in given.run:
        state = read_state(Path(run))
        if not state:
            print(f"error: {run} has no {STATE}: it was never tracked", file=sys.stderr)
            return 2
        about = {key: state[key] for key in ("uri", "experiment", "run_name")}
        if given.uri:
            about["uri"] = given.uri
        if HIDDEN in about["uri"]:
            print(
                f"error: the address of the server held a secret, which {run} does not keep "
                f"({about['uri']}); give it with --uri",
                file=sys.stderr,
            )
            return 2
        outbox = Outbox(Path(run), about)
        waiting = outbox.num_waiting
        sender = Sender(outbox, retry_seconds=10.0)
        complete &= sender.flush()
        sender.close()
        left = outbox.num_waiting
        print(f"{run}: {waiting - left} of {waiting} entries sent to {redact(about['uri'])}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
