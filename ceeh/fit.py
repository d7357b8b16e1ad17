"""python -m ceeh.fit --config FILE [--config OVERLAY ...] [key=value ...]: trains, measures, reports.

The base model is measured on held-out questions, trained, and measured on the same questions again.
The run ends with a table, a report and a model folder.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from lightning import seed_everything

from ceeh.assembly import (
    build_engine,
    build_loggers,
    build_trainer,
    engine_context,
    gather_inputs,
    open_folder,
    quieten,
    set_math,
    write_model,
)
from ceeh.config.reference import HelpConfig
from ceeh.config.settings import Config, load, to_public_yaml
from ceeh.data.datamodule import RolloutDataModule
from ceeh.dry_run import dry_run
from ceeh.held_out import measure_base, measure_tuned, write_results
from ceeh.memory import parse_devices
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.runtime import shutdown
from ceeh.runtime.cli import run_command
from ceeh.runtime.distributed import from_rank_zero, is_rank_zero, say


@shutdown.signals_honored()
def fit(config: Config) -> Path:
    """Runs `config` from its inputs to its report; returns the run folder.

    Raises ConfigError for bad input, before any engine starts where possible, and Stopped when a
    termination signal ends the run, Ctrl-C included; `ckpt_path=last` resumes it.
    """
    quieten()
    inputs = gather_inputs(config)
    shutdown.check()
    seed_everything(config.seed, verbose=False)
    set_math(config.hardware, inputs.accelerator, inputs.precision)
    policy = Policy(
        config.model,
        inputs.model_path,
        temperature=config.rollouts.temperature,
        keep_reference=config.objective.kl_coefficient > 0,
    )
    module = CEEHModule(config, policy)
    shutdown.check()
    with ExitStack() as held:
        folder, checkpoint = from_rank_zero(
            lambda: open_folder(config, inputs, policy.checkpoint_bytes, held)
        )
        jsonl, mlflow = build_loggers(config, folder, checkpoint)
        say(f"run folder {folder.path}; starting the engine ...")
        held.enter_context(closing(inputs.verifier))
        context = engine_context(config, inputs)
        shutdown.check()
        engine = held.enter_context(
            closing(build_engine(config.engine, context, policy.engine_weights))
        )
        shutdown.check()
        datamodule = RolloutDataModule(
            config,
            engine=engine,
            verifier=inputs.verifier,
            train_prompts=inputs.train_prompts,
            held_out_prompts=inputs.held_out_prompts,
            pad_token_id=inputs.pad_token_id,
        )
        loggers = [jsonl, *([mlflow] if mlflow else [])]
        trainer = build_trainer(config, inputs, folder, engine, loggers)
        base = measure_base(trainer, module, datamodule, folder)
        trainer.fit(
            module,
            datamodule=datamodule,
            ckpt_path=checkpoint,
            weights_only=True if checkpoint else None,
        )
        shutdown.check()
        from_rank_zero(lambda: write_model(policy, folder, inputs))
        tuned = measure_tuned(trainer, module, datamodule, folder)
    shutdown.check()
    if is_rank_zero():
        write_results(config, folder, base, tuned, inputs.held_out_prompts, mlflow)
    return folder.path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ceeh.fit", description="Train a model, measure it before and after, report."
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML file; later files win"
    )
    parser.add_argument("--help-config", action=HelpConfig, schemas=(Config,))
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and exit"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the inputs, plan the memory and exit"
    )
    parser.add_argument(
        "--devices", metavar="8x80GB", help="with --dry-run: plan for these devices, e.g. cpu:24GB"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. optimizer.lr=1e-5")
    given = parser.parse_intermixed_args(arguments)
    if not given.config:
        parser.error("--config FILE is needed; configs/ceeh.yaml runs anywhere")
    if given.devices and not given.dry_run:
        parser.error("--devices goes with --dry-run")

    def command() -> int:
        config = load(given.config, given.overrides)
        if given.print_config:
            say(to_public_yaml(config).rstrip())
        elif given.dry_run:
            quieten()
            return dry_run(config, parse_devices(given.devices) if given.devices else None)
        else:
            fit(config)
        return 0

    return run_command(
        command,
        if_stopped="resume with ckpt_path=last",
        last=arguments is None,
        at_once=given.dry_run,
    )


if __name__ == "__main__":
    sys.exit(main())
