"""From a configuration to the parts of a run. Bad input fails here, before any engine starts."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from ceeh.callbacks.checkpoint import METRICS, RunCheckpoint
from ceeh.callbacks.console import Console
from ceeh.callbacks.contrast import ContrastGuard
from ceeh.callbacks.profiler import Profiler
from ceeh.callbacks.rollout_log import HeldOutLog, RolloutLog
from ceeh.callbacks.signal import SignalCallback, check_signals
from ceeh.callbacks.weight_sync import WeightSync
from ceeh.config.component import Component
from ceeh.config.hardware import (
    CANARY_TOLERANCE,
    DTYPE,
    check_attention,
    check_quantization,
    resolve_accelerator,
    resolve_precision,
)
from ceeh.config.settings import (
    READ_HARD,
    Config,
    Hardware,
    check_not_redacted,
    check_pairs,
    to_public_yaml,
)
from ceeh.config.sft import SFTConfig
from ceeh.config.trainer import check_trainer_arguments
from ceeh.data.engine.base import RolloutEngine
from ceeh.data.engine.families import check_family
from ceeh.data.engine.restartable import RestartableEngine
from ceeh.data.engine.vllm_engine import check_init_args
from ceeh.data.mixture.mixture import Mixture
from ceeh.data.prompts import PromptBuilder, check_stream, digests, load_prompts
from ceeh.data.verify.base import Verifier
from ceeh.data.verify.build import build_verifier, drop_unverifiable
from ceeh.errors import ConfigError, RunError, first_line, user_code
from ceeh.modules.policy import Policy
from ceeh.modules.schedule import optimizer_steps
from ceeh.modules.shaping.checked import build_shaping
from ceeh.modules.sharding import gather_weights
from ceeh.pretrained.loading import (
    check_length,
    load_config,
    load_tokenizer,
    pad_token_id,
    resolve_model,
)
from ceeh.run.atomic import atomic_folder
from ceeh.run.checkpoint import read_checkpoint, rollout_step_of
from ceeh.run.disk_space import check_space, format_bytes, free_bytes
from ceeh.run.folder import RunFolder, parent_folder, run_to_resume
from ceeh.run.metrics_file import JSONLLogger
from ceeh.run.resumed import check_resumed, stream_state, write_config
from ceeh.run.sharded_strategy import ShardedStrategy
from ceeh.runtime.distributed import (
    from_rank_zero,
    is_rank_zero,
    join_processes,
    processes_here,
    world_size,
)
from ceeh.runtime.lightning_private import disable_signal_handlers
from ceeh.runtime.text import redact
from ceeh.tracking import system_callbacks
from ceeh.tracking.data_set import data_set
from ceeh.tracking.logger import GuardedMLFlowLogger
from ceeh.types import Prompt, Question, WorkedPrompt

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run reads, checked."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    train_source: Iterable[Question]
    train_prompts: Sequence[Prompt]
    held_out_prompts: Sequence[Prompt]
    verifier: Verifier
    callbacks: Sequence[Callback]
    loggers: Sequence[Logger]
    precision: str
    accelerator: str

    @property
    def pad_token_id(self) -> int:
        return pad_token_id(self.tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What supervised training reads, checked. `held_out` may be empty."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    train_source: Iterable[Question]
    train: Sequence[WorkedPrompt]
    held_out: Sequence[WorkedPrompt]
    precision: str
    accelerator: str


RunConfig = Config | SFTConfig
RunInputs = Inputs | Examples


def gather_inputs(config: Config) -> Inputs:
    """Reads model files, data and user classes. Raises ConfigError with the cure for bad input."""
    accelerator = resolve_accelerator(config.hardware)
    check_not_redacted(config)
    check_pairs(config, world_size())
    check_trainer(config.trainer)
    callbacks = build_callbacks(config)
    loggers = built_as(config.loggers, "loggers", Logger)
    run = run_to_resume(config.output, config.name, config.ckpt_path) if config.ckpt_path else None
    if run is not None and (run / "config.yaml").is_file():
        check_resumed(run, config)
    path = resolve_model(config.model.path)
    tokenizer = load_tokenizer(path, config.model.trust_remote_code)
    prompts, builder = config.prompts, PromptBuilder.of(tokenizer, config.prompts)
    longest = prompts.max_prompt_tokens + config.rollouts.max_response_tokens
    check_length(load_config(path, config.model.trust_remote_code), path, longest)
    train_source = build_source(prompts.train, "prompts.train")
    if isinstance(train_source, Mixture):
        train_source.run = run
    train = load_prompts(train_source, builder, "prompts.train")
    held_out_source = build_source(prompts.held_out, "prompts.held_out")
    held_out = load_prompts(held_out_source, builder, "prompts.held_out")
    verifier = build_verifier(config.verifier)
    join_processes(
        accelerator,
        join_minutes=config.hardware.join_minutes,
        collective_minutes=config.hardware.collective_minutes,
    )
    train = drop_unverifiable(train, verifier, "prompts.train")
    held_out = drop_unverifiable(held_out, verifier, "prompts.held_out")
    if len(train) < config.rollouts.prompts_per_step:
        raise ConfigError(
            f"rollouts.prompts_per_step is {config.rollouts.prompts_per_step}, but prompts.train has only "
            f"{len(train)} prompts; lower prompts_per_step or add prompts"
        )
    used = held_out[: config.evaluation.questions]
    check_share(used)
    if run is not None and (state := stream_state(run, config.ckpt_path or "")):
        check_stream(state, digests(train), config.seed)
    warn_of_doubts(config, train, held_out)
    inputs = Inputs(
        model_path=path,
        tokenizer=tokenizer,
        train_source=train_source,
        train_prompts=train,
        held_out_prompts=used,
        verifier=verifier,
        callbacks=callbacks,
        loggers=loggers,
        accelerator=accelerator,
        precision=resolve_precision(config.hardware, accelerator),
    )
    config.engine.fitted("engine", **engine_context(config, inputs))
    return inputs


def check_share(held_out: Sequence[Any]) -> None:
    """Raises ConfigError where a process would have no held-out question."""
    if len(held_out) < world_size():
        raise ConfigError(
            f"prompts.held_out: {len(held_out)} questions are fewer than the {world_size()} processes, each "
            "of which evaluates its share; add questions, or raise evaluation.questions"
        )


def check_device(config: Config, accelerator: str, *, processes: int, here: int) -> None:
    """Raises ConfigError for what the devices cannot do: quantized weights, kernels, families, sharing.

    There are as many devices as `processes`, `here` of them on each machine.
    """
    check_quantization(config, accelerator)
    check_attention(config, accelerator)
    path = resolve_model(config.model.path)
    if config.engine.class_path == Config().engine.class_path:
        model = load_config(path, config.model.trust_remote_code)
        dtype = DTYPE[resolve_precision(config.hardware, accelerator)]
        check_family(model, accelerator=accelerator, dtype=dtype)
        check_init_args(config.engine.init_args, model, processes=processes, here=here)


def warn_of_doubts(config: Config, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    """Warns of what a run can do, but hardly is meant to."""
    updates = config.rollouts.steps * optimizer_steps(config)
    if (warmup := config.optimizer.warmup_steps) > updates:
        warnings.warn(
            f"optimizer.warmup_steps is {warmup}, but the run has only {updates} optimizer steps: the "
            "learning rate never reaches optimizer.lr",
            stacklevel=3,
        )
    trained = {prompt.squeezed for prompt in train}
    if known := [prompt.uid for prompt in held_out if prompt.squeezed in trained]:
        warnings.warn(
            f"prompts.held_out: {len(known)} of {len(held_out)} questions are also in prompts.train, the "
            f"first is '{known[0]}'; measured on them, a model that memorizes looks better",
            stacklevel=3,
        )


def build_source(component: Component, place: str) -> Iterable[Question]:
    source = component.build(place)
    if not isinstance(source, Iterable):
        raise ConfigError(
            f"{place}: {component.class_path} is not a source of questions (ceeh.data.sources): its "
            "__iter__ must yield ceeh.types.Question"
        )
    return source


def build_callbacks(config: Config) -> list[Callback]:
    """The callbacks of the configuration. Raises ConfigError unless each needed signal has one writer."""
    callbacks = built_as(config.callbacks, "callbacks", Callback)
    objective, needed = config.objective, {}
    observed = any(isinstance(each, SignalCallback) and each.observes_hard for each in callbacks)
    if objective.entropy.method in READ_HARD or observed:
        needed["objective.hard_signal"] = objective.hard_signal
    if objective.entropy.coefficient_signal is not None:
        needed["objective.entropy.coefficient_signal"] = objective.entropy.coefficient_signal
    for signal in build_shaping(config).reads:
        needed[f"objective.shaping ({signal})"] = signal
    check_signals(callbacks, needed)
    return callbacks


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError for arguments that the run sets itself, or that Lightning refuses."""
    check_trainer_arguments(arguments)
    if arguments:
        try:  # Lightning checks them when it builds a Trainer; the run's own comes after the engine
            Trainer(
                accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, **arguments
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise ConfigError(f"trainer: {first_line(error)}, got {dict(arguments)}") from error


def built_as(components: Mapping[str, Component], place: str, kind: type[T]) -> list[T]:
    """Instances of the named classes. Raises ConfigError for one that is not a `kind`."""
    built = []
    for name, component in components.items():
        instance = component.build(f"{place}.{name}")
        if not isinstance(instance, kind):
            raise ConfigError(
                f"{place}.{name}: {component.class_path} is not a {kind.__name__} of Lightning, as "
                f"every entry of {place} must be"
            )
        built.append(instance)
    return built


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


def write_model(policy: Policy, folder: RunFolder, inputs: RunInputs) -> None:
    """Rank 0 writes the trained model into the run folder. Collective.

    Raises RunError, on all ranks, when the disk is full.
    """

    def write() -> None:
        begun = False
        try:
            with atomic_folder(folder.model) as model:
                begun = True
                policy.save(model, inputs.tokenizer)
        except OSError as error:
            if not begun:
                gather_weights(policy)  # the other ranks wait for this one
            raise RunError(
                f"the model cannot be written to '{folder.model}' ({error.strerror or error}), "
                f"{format_bytes(free_bytes(folder.path))} are free there; free space and resume with "
                "ckpt_path=last"
            ) from error

    if not is_rank_zero():
        gather_weights(policy)  # `save` gathers the same weights in the same order
    from_rank_zero(write)


def set_threads(hardware: Hardware) -> None:
    """Sets torch's number of CPU threads where `hardware.threads` is given."""
    if hardware.threads:
        torch.set_num_threads(hardware.threads)


def quieten() -> None:
    """Silences log lines and warnings of Lightning and transformers that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    disable_progress_bar()
    # On a node with SLURM installed, for a run that torchrun or nobody started.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # The base model is always in evaluation mode: its own dropout would make the ratio random.
    warnings.filterwarnings("ignore", message="Found \\d+ module.s. in eval mode")
    # In a run of one process, because vLLM has a process group of its own.
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log\\(")
    # Lightning 2.6 calls an API that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")


def open_folder(
    config: RunConfig, inputs: RunInputs, checkpoint_size: int, held: ExitStack
) -> tuple[RunFolder, Path | None]:
    """A new run folder, or the one to resume and its checkpoint, claimed until `held` closes.

    Writes the configuration into it, beside that of its start, and the report of a mixture. Raises
    ConfigError when a checkpoint of `checkpoint_size` bytes does not fit on the disk.
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
    write_config(folder.path, config)
    if isinstance(inputs.train_source, Mixture):
        inputs.train_source.write(folder.path)
    return folder, checkpoint


def build_loggers(
    config: RunConfig, inputs: RunInputs, folder: RunFolder, checkpoint: Path | None
) -> tuple[JSONLLogger, GuardedMLFlowLogger | None]:
    """The loggers; metrics.jsonl continues from the checkpoint's step."""
    jsonl = JSONLLogger(folder.path)
    kept = read_checkpoint(checkpoint, weights=False) if checkpoint else {}
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
    ours = isinstance(inputs, Inputs)
    train, held_out = (
        (inputs.train_prompts, inputs.held_out_prompts) if ours else (inputs.train, inputs.held_out)
    )
    mlflow.log_data_sets(data_set("training", config.prompts.train, train))
    if held_out:
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


def build_strategy(config: RunConfig) -> Strategy | str:
    """How the processes share the weights. FSDP over one process is FSDP, too: a test of a machine."""
    if config.hardware.strategy == "fsdp":
        return ShardedStrategy(distributed=config.checkpoints.format != "full")
    return "ddp" if world_size() > 1 else "auto"


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
