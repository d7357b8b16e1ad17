"""python -m ceeh.fit --config FILE [--config OVERLAY ...] [key=value ...]: trains, measures, reports.

base measured on held-out questions -> Trainer.fit -> tuned measured on the same -> table, report, model.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from lightning import seed_everything

from ceeh.assembly import (
    build_engine,
    build_loggers,
    build_trainer,
    gather_inputs,
    open_folder,
    quieten,
    write_model,
)
from ceeh.config.settings import Config, load, to_public_yaml
from ceeh.data.datamodule import RolloutDataModule
from ceeh.dry_run import dry_run
from ceeh.held_out import measure_base, measure_tuned, write_results
from ceeh.memory.devices import parse_devices
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy, checkpoint_bytes
from ceeh.runtime import shutdown
from ceeh.runtime.cli import run_command
from ceeh.runtime.distributed import from_rank_zero, is_rank_zero, say


@shutdown.signals_honored()
def fit(config: Config) -> Path:
    """Runs `config` from its inputs to its report; returns the run folder.

    Raises ConfigError before any engine starts where the mistake can be seen by then, and Stopped when a
    termination signal ends it, Ctrl-C included; `ckpt_path=last` resumes it.
    """
    quieten()
    inputs = gather_inputs(config)
    seed_everything(config.seed, verbose=False)
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    if inputs.accelerator == "cuda" and inputs.precision != "32-true":
        # The head multiplies in fp32, which a GPU's tensor cores do as TF32 when they may.
        torch.set_float32_matmul_precision("high")
    policy = Policy(
        config.model,
        inputs.model_path,
        temperature=config.rollouts.temperature,
        keep_reference=config.objective.kl_coefficient > 0,
    )
    module = CEEHModule(config, policy)
    with ExitStack() as held:
        folder, checkpoint = from_rank_zero(
            lambda: open_folder(config, inputs, checkpoint_bytes(policy), held)
        )
        jsonl, mlflow = build_loggers(config, folder, checkpoint)
        say(f"run folder {folder.path}; starting the engine ...")
        held.enter_context(closing(inputs.verifier))
        shutdown.check()
        engine = held.enter_context(closing(build_engine(config, inputs, policy)))
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
    parser = argparse.ArgumentParser(prog="python -m ceeh.fit", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="later files win"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the inputs, plan the memory and stop"
    )
    parser.add_argument(
        "--devices", metavar="8x80GB", help="plan for these, not for what is here; cpu:24GB too"
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
            return 0
        if given.dry_run:
            quieten()
            return dry_run(config, parse_devices(given.devices) if given.devices else None)
        fit(config)
        return 0

    return run_command(command, if_stopped="continue with ckpt_path=last", last=arguments is None)


if __name__ == "__main__":
    sys.exit(main())
