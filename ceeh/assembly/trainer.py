"""Loggers and Lightning's Trainer with the callbacks of a run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.strategies import Strategy

from ceeh.assembly.inputs import Inputs, RunConfig, RunInputs
from ceeh.callbacks.checkpoint import METRICS, RunCheckpoint
from ceeh.callbacks.console import Console
from ceeh.callbacks.contrast import ContrastGuard
from ceeh.callbacks.profiler import Profiler
from ceeh.callbacks.rollout_log import HeldOutLog, RolloutLog
from ceeh.callbacks.weight_sync import WeightSync
from ceeh.config.hardware import CANARY_TOLERANCE
from ceeh.config.settings import Config
from ceeh.config.writing import to_public_yaml
from ceeh.data.engine.base import RolloutEngine
from ceeh.errors import user_code
from ceeh.run.checkpoint import read_checkpoint
from ceeh.run.disk_space import written
from ceeh.run.folder import RunFolder
from ceeh.run.metrics_file import JSONLLogger
from ceeh.run.sharded_strategy import ShardedStrategy
from ceeh.runtime.distributed import from_rank_zero, processes_here, world_size
from ceeh.runtime.lightning_private import disable_signal_handlers
from ceeh.runtime.text import redact
from ceeh.tracking import system_callbacks
from ceeh.tracking.data_set import data_set
from ceeh.tracking.logger import GuardedMLFlowLogger


def build_loggers(
    config: RunConfig, inputs: RunInputs, folder: RunFolder, checkpoint: Path | None
) -> tuple[JSONLLogger, GuardedMLFlowLogger | None]:
    """The loggers; metrics.jsonl continues from the checkpoint's step. Collective."""
    jsonl = JSONLLogger(folder.path)
    kept = read_checkpoint(checkpoint, weights=False) if checkpoint else {}

    def drop_later() -> None:
        with written(jsonl.path):
            jsonl.resume_from_step(kept.get("rollout_step", 0), kept.get(METRICS))

    from_rank_zero(drop_later)
    if not config.tracking.mlflow:
        return jsonl, None
    mlflow = GuardedMLFlowLogger(
        uri=config.tracking.mlflow_uri,
        experiment=config.tracking.experiment,
        run_name=folder.path.name,
        folder=folder.path,
    )
    mlflow.log_config(to_public_yaml(config))
    mlflow.log_data_sets(data_set("training", config.prompts.train, inputs.train_prompts))
    if held_out := inputs.held_out_prompts:
        mlflow.log_data_sets(data_set("evaluation", config.prompts.held_out, held_out))
    return jsonl, mlflow


def build_trainer(
    config: Config, inputs: Inputs, folder: RunFolder, engine: RolloutEngine, loggers: list
) -> Trainer:
    """Lightning's Trainer with the callbacks of the configuration and those of every run."""
    rollouts = config.rollouts
    callbacks: list[Callback] = [
        *inputs.callbacks,
        WeightSync(
            engine,
            tolerance=rollouts.canary_tolerance or CANARY_TOLERANCE[inputs.precision],
        ),
        Console(
            steps=rollouts.steps,
            title=f"{folder.path.name}: {config.model.path} on {inputs.accelerator}",
        ),
        RolloutLog(folder.rollouts, config.tracking.rollouts_every_n_steps),
        HeldOutLog(folder.path / "held_out", inputs.tokenizer),
        ContrastGuard(rollouts.max_flat_steps),
        *system_callbacks(),
    ]
    if config.profile:
        callbacks.append(Profiler(folder.path))
    trainer = make_trainer(
        config,
        inputs,
        folder,
        [*loggers, *inputs.loggers],
        callbacks,
        evaluate_every_n_steps=config.evaluation.every_n_steps or rollouts.steps + 1,
        **config.trainer,
    )
    for logger in inputs.loggers:
        with user_code(type(logger), f"loggers: {type(logger).__name__} fails to start"):
            logger.log_hyperparams(redact(asdict(config)))
    return trainer


def make_trainer(
    config: RunConfig,
    inputs: RunInputs,
    folder: RunFolder,
    loggers: list,
    callbacks: list[Callback],
    *,
    evaluate_every_n_steps: int,
    **arguments: Any,
) -> Trainer:
    """Lightning's Trainer with `callbacks` and, last, the checkpoints.

    The `arguments` of the configuration cannot collide with those here: see `ceeh.config.trainer`.
    """
    checkpoint = RunCheckpoint(folder.checkpoints, config.checkpoints, loggers[0])
    arguments = {"enable_progress_bar": False, "enable_model_summary": False} | arguments
    trainer = Trainer(
        accelerator=inputs.accelerator,
        devices=processes_here(),
        num_nodes=world_size() // processes_here(),
        strategy=build_strategy(config),
        precision=inputs.precision,  # type: ignore[arg-type]  # checked against Lightning's names
        max_epochs=1,
        check_val_every_n_epoch=None,
        val_check_interval=evaluate_every_n_steps,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=loggers,
        callbacks=[*callbacks, checkpoint],
        plugins=[checkpoint.io],
        use_distributed_sampler=False,
        default_root_dir=folder.path,
        **arguments,
    )
    disable_signal_handlers(trainer)
    return trainer


def build_strategy(config: RunConfig) -> Strategy | str:
    """How the processes share the weights. FSDP over one process is FSDP, too: a test of a machine."""
    if config.hardware.strategy == "fsdp":
        return ShardedStrategy(distributed=config.checkpoints.format != "full")
    return "ddp" if world_size() > 1 else "auto"
