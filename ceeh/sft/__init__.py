"""python -m ceeh.sft --config FILE [--config OVERLAY ...] [key=value ...]: supervised training.

A model that does not know a task's format solves nothing, and reinforcement learning has nothing to learn
from. A brief training on demonstrations cures that; its run folder is the `model.path` of ceeh.fit.
As in `ceeh.fit`, the configuration is checked before torch is imported; `ceeh.sft.train` has the run.
"""

from collections.abc import Sequence
from pathlib import Path

from ceeh.config.reference import CommandParser
from ceeh.config.sft import SFTConfig, load_sft
from ceeh.config.writing import to_public_yaml
from ceeh.runtime.cli import run_command
from ceeh.runtime.text import escape


def sft(config: SFTConfig) -> Path:
    """Trains `config` from its examples to its model folder; returns the run folder.

    Raises ConfigError for bad input, and Stopped when a termination signal ends the run;
    `ckpt_path=last` resumes it.
    """
    from ceeh.sft.train import train

    return train(config)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        prog="python -m ceeh.sft", description="Train a model on demonstrations."
    )
    parser.add_settings(SFTConfig, example="optimizer.lr=1e-5")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and exit"
    )
    given = parser.parse_intermixed_args(arguments)
    if not given.config:
        parser.error("--config FILE is needed, e.g. configs/examples/smollm2_sft.yaml")

    def command() -> int:
        config = load_sft(given.config, given.overrides)
        if given.print_config:
            print(escape(to_public_yaml(config).rstrip()))
        else:
            sft(config)
        return 0

    return run_command(command, if_stopped="resume with ckpt_path=last", last=arguments is None)
