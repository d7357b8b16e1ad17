"""python -m ceeh.fit --config FILE [--config OVERLAY ...] [key=value ...]: trains, measures, reports.

The configuration is read and checked here, before torch, Lightning and vLLM are imported, which takes
seconds: `--help`, `--print-config` and a typo answer at once. `ceeh.fit.train` has the run.
"""

from collections.abc import Sequence
from pathlib import Path

from ceeh.config.reference import CommandParser
from ceeh.config.settings import Config, load
from ceeh.config.writing import to_public_yaml
from ceeh.runtime.callable_module import make_callable
from ceeh.runtime.cli import run_command
from ceeh.runtime.text import escape

make_callable(__name__)


def fit(config: Config) -> Path:
    """Runs `config` from its inputs to its report; returns the run folder.

    Raises ConfigError for bad input, before any engine starts where possible, and Stopped when a
    termination signal ends the run, Ctrl-C included; `ckpt_path=last` resumes it.
    """
    from ceeh.fit.train import train

    return train(config)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        prog="python -m ceeh.fit", description="Train a model, measure it before and after, report."
    )
    parser.add_settings(Config, example="optimizer.lr=1e-5")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and exit"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the inputs, plan the memory and exit"
    )
    parser.add_argument(
        "--devices", metavar="8x80GB", help="with --dry-run: plan for these devices, e.g. cpu:24GB"
    )
    given = parser.parse_intermixed_args(arguments)
    if not given.config:
        parser.error("--config FILE is needed; configs/ceeh.yaml runs anywhere")
    if given.devices and not given.dry_run:
        parser.error("--devices goes with --dry-run")

    def command() -> int:
        config = load(given.config, given.overrides)
        if given.print_config:
            print(escape(to_public_yaml(config).rstrip()))
        elif given.dry_run:
            from ceeh.dry_run import dry_run

            return dry_run(config, given.devices)
        else:
            fit(config)
        return 0

    return run_command(
        command,
        if_stopped="resume with ckpt_path=last",
        last=arguments is None,
        at_once=given.dry_run,
    )
