"""From a configuration to the parts of a run. Bad input fails here, before any engine starts."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from ceeh.callbacks.checkpoint import METRICS, RunCheckpoint
from ceeh.callbacks.console import Console
from ceeh.callbacks.profiler import Profiler
from ceeh.callbacks.rollout_log import RolloutLog
from ceeh.callbacks.signal import SignalCallback, check_signals
from ceeh.callbacks.weight_sync import WeightSync
from ceeh.config.component import Component
from ceeh.config.hardware import CANARY_TOLERANCE, DTYPE, resolve_accelerator, resolve_precision
from ceeh.config.settings import Config, check_not_redacted, check_pairs, to_public_yaml
from ceeh.data.engine.base import RolloutEngine
from ceeh.data.engine.families import check_family
from ceeh.data.engine.restartable import RestartableEngine
from ceeh.data.mixture.mixture import Mixture
from ceeh.data.prompts import PromptBuilder, load_prompts
from ceeh.data.verify.base import Verifier
from ceeh.data.verify.build import build_verifier, drop_unverifiable
from ceeh.errors import ConfigError, RunError
from ceeh.modules.policy import Policy
from ceeh.modules.shaping.base import build_shaping
from ceeh.pretrained.loading import check_length, load_config, load_tokenizer, resolve_model
from ceeh.run.atomic import atomic_folder, atomic_write_text
from ceeh.run.checkpoint import read_checkpoint, rollout_step_of
from ceeh.run.disk_space import check_space, format_bytes, free_bytes
from ceeh.run.folder import RunFolder, parent_folder, run_to_resume
from ceeh.run.metrics_file import JSONLLogger
from ceeh.runtime.distributed import join_processes, processes_here, world_size
from ceeh.runtime.lightning_private import disable_signal_handlers
from ceeh.tracking.logger import GuardedMLFlowLogger
from ceeh.types import Prompt, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run reads, checked."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    train_source: Iterable[Question]
    train_prompts: Sequence[Prompt]
    held_out_prompts: Sequence[Prompt]
    verifier: Verifier
    signals: Mapping[str, SignalCallback]
    precision: str
    accelerator: str

    @property
    def pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)  # type: ignore[arg-type]


def gather_inputs(config: Config) -> Inputs:
    """Reads model files, data and user classes. Raises ConfigError with the cure for bad input."""
    accelerator = resolve_accelerator(config.hardware)
    check_not_redacted(config)
    check_pairs(config, world_size())
    signals = build_signals(config)
    path = resolve_model(config.model.path)
    tokenizer = load_tokenizer(path, config.model.trust_remote_code)
    prompts = config.prompts
    longest = prompts.max_prompt_tokens + config.rollouts.max_response_tokens
    model_config = load_config(path, config.model.trust_remote_code)
    check_length(model_config, path, longest)
    precision = resolve_precision(config.hardware, accelerator)
    if config.engine.class_path == Config().engine.class_path:
        check_family(model_config, accelerator=accelerator, dtype=DTYPE[precision])
    builder = PromptBuilder(
        tokenizer,
        max_prompt_tokens=prompts.max_prompt_tokens,
        chat_template=prompts.chat_template,
        system_prompt=prompts.system_prompt,
        instruction=prompts.instruction,
    )
    train_source = build_source(prompts.train, "prompts.train")
    if isinstance(train_source, Mixture) and config.ckpt_path:
        train_source.run = run_to_resume(config.output, config.name, config.ckpt_path)
    train = load_prompts(train_source, builder, "prompts.train")
    held_out_source = build_source(prompts.held_out, "prompts.held_out")
    held_out = load_prompts(held_out_source, builder, "prompts.held_out")
    verifier = build_verifier(config.verifier)
    join_processes(accelerator)
    train = drop_unverifiable(train, verifier, "prompts.train")
    held_out = drop_unverifiable(held_out, verifier, "prompts.held_out")
    if len(train) < config.rollouts.prompts_per_step:
        raise ConfigError(
            f"rollouts.prompts_per_step is {config.rollouts.prompts_per_step}, but prompts.train has only "
            f"{len(train)} prompts; lower prompts_per_step or add prompts"
        )
    inputs = Inputs(
        model_path=path,
        tokenizer=tokenizer,
        train_source=train_source,
        train_prompts=train,
        held_out_prompts=held_out[: config.evaluation.questions],
        verifier=verifier,
        signals=signals,
        accelerator=accelerator,
        precision=precision,
    )
    config.engine.fitted("engine", **engine_context(config, inputs))
    return inputs


def build_source(component: Component, place: str) -> Iterable[Question]:
    source = component.build(place)
    if not isinstance(source, Iterable):
        raise ConfigError(
            f"{place}: {component.class_path} is not a source of questions (ceeh.data.sources): its "
            "__iter__ must yield ceeh.types.Question"
        )
    return source


def build_signals(config: Config) -> dict[str, SignalCallback]:
    """The callbacks of the configuration. Raises ConfigError unless each needed signal has one writer."""
    callbacks = {}
    for name, component in config.callbacks.items():
        callback = component.build(f"callbacks.{name}")
        if not isinstance(callback, SignalCallback):
            raise ConfigError(
                f"callbacks.{name}: {component.class_path} is not a SignalCallback "
                "(ceeh.callbacks.signal), as every entry of callbacks must be"
            )
        callbacks[name] = callback
    needed = {}
    if config.objective.entropy.method in ("me", "ea"):
        needed["objective.hard_signal"] = config.objective.hard_signal
    for signal in build_shaping(config).reads:
        needed[f"objective.shaping ({signal})"] = signal
    check_signals(list(callbacks.values()), needed)
    return callbacks


def build_engine(
    component: Component,
    context: Mapping[str, Any],
    weights: Callable[[], Iterable[tuple[str, Tensor]]] | None,
) -> RestartableEngine:
    """The engine that `component` names; it restarts with the current `weights` if it fails."""
    return RestartableEngine(lambda: component.build("engine", **context), weights)


def engine_context(config: Config, inputs: Inputs) -> dict[str, Any]:
    """What an engine may take besides its `init_args`."""
    return {
        "model_path": inputs.model_path,
        "max_model_len": config.prompts.max_prompt_tokens + config.rollouts.max_response_tokens,
        "trust_remote_code": config.model.trust_remote_code,
        "seed": config.seed,
        "accelerator": inputs.accelerator,
        "dtype": DTYPE[inputs.precision],
    }


def write_model(policy: Policy, folder: RunFolder, inputs: Inputs) -> None:
    """Writes the trained model into the run folder. Raises RunError when the disk is full."""
    try:
        with atomic_folder(folder.model) as model:
            policy.save(model, inputs.tokenizer)
    except OSError as error:
        raise RunError(
            f"the model cannot be written to '{folder.model}' ({error.strerror or error}), "
            f"{format_bytes(free_bytes(folder.path))} are free there; free space and resume with "
            "ckpt_path=last"
        ) from error


def quieten() -> None:
    """Silences log lines and warnings of Lightning and transformers that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    disable_progress_bar()
    # Held-out metrics are reduced over ranks before they are logged, but the engine opens a process
    # group of one, and Lightning asks for a reduction over it.
    warnings.filterwarnings("ignore", message="It is recommended to use .self.log.'eval/")
    # The base model is always in evaluation mode: its own dropout would make the ratio random.
    warnings.filterwarnings("ignore", message="Found \\d+ module.s. in eval mode")
    # Lightning 2.6 calls an API that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")


def open_folder(
    config: Config, inputs: Inputs, checkpoint_size: int, held: ExitStack
) -> tuple[RunFolder, Path | None]:
    """A new run folder, or the one to resume and its checkpoint, claimed until `held` closes.

    Writes the configuration into it, and the report of a mixture. Raises ConfigError when a
    checkpoint of `checkpoint_size` bytes does not fit on the disk.
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
    atomic_write_text(folder.path / "config.yaml", to_public_yaml(config))
    if isinstance(inputs.train_source, Mixture):
        inputs.train_source.write(folder.path)
    return folder, checkpoint


def build_loggers(
    config: Config, folder: RunFolder, checkpoint: Path | None
) -> tuple[JSONLLogger, GuardedMLFlowLogger | None]:
    """The loggers; metrics.jsonl continues from the checkpoint's step."""
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
    mlflow.log_config(to_public_yaml(config))
    return jsonl, mlflow


def build_trainer(
    config: Config, inputs: Inputs, folder: RunFolder, engine: RolloutEngine, loggers: list
) -> Trainer:
    """Lightning's Trainer with the callbacks of the configuration and those of every run."""
    rollouts = config.rollouts
    checkpoint = RunCheckpoint(folder.checkpoints, config.checkpoints, loggers[0])
    callbacks: list[Callback] = [
        *inputs.signals.values(),
        WeightSync(
            engine,
            tolerance=rollouts.canary_tolerance or CANARY_TOLERANCE[inputs.precision],
        ),
        Console(
            steps=rollouts.steps,
            title=f"{folder.path.name}: {config.model.path} on {inputs.accelerator}",
        ),
        RolloutLog(folder.rollouts, config.tracking.rollouts_every_n_steps),
    ]
    if config.profile:
        callbacks.append(Profiler(folder.path, steps=rollouts.steps))
    callbacks.append(checkpoint)
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
        plugins=[checkpoint.io],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
    disable_signal_handlers(trainer)
    return trainer
