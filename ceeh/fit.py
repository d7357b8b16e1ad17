"""python -m ceeh.fit --config FILE [--config OVERLAY ...] [key=value ...]: trains, measures, reports.

base measured on held-out questions -> Trainer.fit -> tuned measured on the same -> table, report, model.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from lightning import Callback, Trainer, seed_everything
from transformers.utils.logging import disable_progress_bar

from ceeh import stopping
from ceeh.assembly import CANARY_TOLERANCE, Inputs, build_engine, gather_inputs
from ceeh.callbacks.console import Console
from ceeh.callbacks.profiler import Profiler
from ceeh.callbacks.rng_state import RNGState
from ceeh.callbacks.rollout_log import RolloutLog
from ceeh.callbacks.run_checkpoint import METRICS, RunCheckpoint
from ceeh.callbacks.weight_sync import WeightSync
from ceeh.checkpoint import read_checkpoint, rollout_step_of
from ceeh.checkpoint_io import WholeCheckpointIO
from ceeh.component import ConfigError
from ceeh.config import Config, load, to_public_yaml
from ceeh.data.datamodule import RolloutDataModule
from ceeh.data.engine import RolloutEngine
from ceeh.data.mixture import Mixture
from ceeh.disk_space import check_space, checkpoint_bytes, free_bytes, readable
from ceeh.dry_run import dry_run
from ceeh.jsonl import JSONLLogger
from ceeh.measure import measure_base, measure_tuned, write_results
from ceeh.memory.devices import parse_devices
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.ranks import (
    from_rank_zero,
    is_rank_zero,
    processes_here,
    say,
    world_size,
)
from ceeh.run_folder import RunFolder, parent_folder
from ceeh.terminal import run_command
from ceeh.tracking import GuardedMLFlowLogger
from ceeh.whole_file import write_whole
from ceeh.whole_folder import whole_folder


@stopping.signals_honoured()
def fit(config: Config) -> Path:
    """Runs `config` from its inputs to its report; returns the run folder.

    Raises ConfigError before any engine starts where the mistake can be seen by then, and Stopped when
    a signal ends it, Ctrl-C included; `ckpt_path=last` goes on then.
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
        engine = held.enter_context(closing(build_engine(config, inputs, policy)))
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
        from_rank_zero(lambda: write_model(policy, folder, inputs))
        tuned = measure_tuned(trainer, module, datamodule, folder)
    if is_rank_zero():
        write_results(config, folder, base, tuned, inputs.held_out_prompts, mlflow)
    return folder.path


def write_model(policy: Policy, folder: RunFolder, inputs: Inputs) -> None:
    try:
        with whole_folder(folder.model) as model:
            policy.save(model, inputs.tokenizer)
    except OSError as error:
        raise ConfigError(
            f"output: '{folder.model}' cannot be written ({error.strerror or error}), "
            f"{readable(free_bytes(folder.path))} are free there; make room and continue with "
            "ckpt_path=last"
        ) from error


def quieten() -> None:
    """Silences what Lightning and transformers print and what does not apply to us."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    disable_progress_bar()
    # Our held-out figures are joined over ranks before they are logged, and the engine opens a process
    # group of one, which Lightning takes for ranks to join.
    warnings.filterwarnings("ignore", message="It is recommended to use .self.log.'eval/")
    # Lightning 2.6 under torch 2.13 and its own loader that has no workers.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")


def open_folder(
    config: Config, inputs: Inputs, checkpoint_size: int, held: ExitStack
) -> tuple[RunFolder, Path | None]:
    """A new run folder, or the one to resume and its checkpoint; claimed until `held` is closed.

    The configuration is written into it, and what a mixture drew and left out. Raises ConfigError
    when there is no space for one checkpoint of `checkpoint_size` bytes.
    """
    if config.ckpt_path is None:
        check_space(parent_folder(config.output), checkpoint_size, config.checkpoints.keep)
        folder, checkpoint = RunFolder.create(config.output, config.name), None
        held.enter_context(folder.claimed())
    else:
        folder, checkpoint = RunFolder.resume(config.output, config.name, config.ckpt_path)
        held.enter_context(folder.claimed())
        folder.drop_after(rollout_step_of(checkpoint) if checkpoint else 0)
        check_space(folder.checkpoints, checkpoint_size, config.checkpoints.keep)
    write_whole(folder.path / "config.yaml", to_public_yaml(config))
    if isinstance(inputs.train_source, Mixture):
        inputs.train_source.report.write(folder.path)
    return folder, checkpoint


def build_loggers(
    config: Config, folder: RunFolder, checkpoint: Path | None
) -> tuple[JSONLLogger, GuardedMLFlowLogger | None]:
    jsonl = JSONLLogger(folder.path)
    kept = read_checkpoint(checkpoint) if checkpoint else {}
    jsonl.resume_from_step(kept.get("rollout_step", 0), kept.get(METRICS))
    if not config.tracking.mlflow:
        return jsonl, None
    mlflow = GuardedMLFlowLogger(
        uri=config.tracking.mlflow_uri,
        experiment=config.tracking.experiment,
        run_name=folder.path.name,
        folder=folder.path,
    )
    mlflow.log_config(to_public_yaml(config), {})
    return jsonl, mlflow


def build_trainer(
    config: Config, inputs: Inputs, folder: RunFolder, engine: RolloutEngine, loggers: list
) -> Trainer:
    """Lightning's Trainer with the callbacks that every run has around those of the configuration."""
    rollouts, checkpoint_io, generators = config.rollouts, WholeCheckpointIO(), RNGState()
    callbacks: list[Callback] = [
        *inputs.signals.values(),
        WeightSync(
            engine,
            tolerance=rollouts.canary_tolerance or CANARY_TOLERANCE[inputs.precision],
            temperature=rollouts.temperature,
        ),
        generators,
        Console(
            steps=rollouts.steps,
            title=f"{folder.path.name}: {config.model.path} on {inputs.accelerator}",
        ),
        RunCheckpoint(
            folder.checkpoints,
            checkpoint_io,
            loggers[0],
            generators,
            steps=rollouts.steps,
            every_n_steps=config.checkpoints.every_n_steps,
            evaluate_every_n_steps=config.evaluation.every_n_steps,
            keep=config.checkpoints.keep,
            max_failures=config.checkpoints.max_failures,
        ),
        RolloutLog(folder.rollouts, config.tracking.rollouts_every_n_steps),
    ]
    if config.profile:
        callbacks.append(Profiler(folder.path, steps=rollouts.steps))
    trainer = Trainer(
        accelerator=inputs.accelerator,
        devices=processes_here(),
        num_nodes=world_size() // processes_here(),
        strategy="ddp" if world_size() > 1 else "auto",
        precision=inputs.precision,  # type: ignore[arg-type]  # checked against Lightning's names
        max_epochs=1,
        check_val_every_n_epoch=None,
        val_check_interval=config.evaluation.every_n_steps or rollouts.steps + 1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=loggers,
        callbacks=callbacks,
        plugins=[checkpoint_io],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
    # Lightning's handlers let a stop wait for the end of a step, broadcast from within a signal, and end a
    # process with status 0; `ceeh.stopping` has the signals.
    trainer._signal_connector.register_signal_handlers = lambda: None
    return trainer


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
