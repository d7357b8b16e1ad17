"""The inputs of a run: model files, questions, user classes. Bad ones fail before an engine starts."""

import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.loggers import Logger
from transformers import PreTrainedTokenizerBase

from ceeh.assembly.components import build_callbacks, build_source, built_as, check_trainer
from ceeh.config.consistency import check_pairs
from ceeh.config.hardware import (
    DTYPE,
    check_attention,
    check_quantization,
    resolve_accelerator,
    resolve_precision,
)
from ceeh.config.settings import Config
from ceeh.config.sft import SFTConfig
from ceeh.config.writing import check_not_redacted
from ceeh.data.engine.families import check_family
from ceeh.data.engine.vllm_options import check_init_args
from ceeh.data.mixture.mixture import Mixture
from ceeh.data.prompts import PromptBuilder, digests, load_prompts
from ceeh.data.stream import check_stream
from ceeh.data.verify.base import Verifier
from ceeh.data.verify.build import build_verifier, drop_unverifiable
from ceeh.errors import ConfigError
from ceeh.modules.schedule import updates_per_rollout_step
from ceeh.pretrained.loading import (
    check_length,
    load_config,
    load_tokenizer,
    pad_token_id,
    resolve_model,
)
from ceeh.run.folder import run_to_resume
from ceeh.run.resumed import check_resumed, stream_state
from ceeh.runtime.distributed import join_processes, world_size
from ceeh.runtime.rng import stable_hash
from ceeh.types import Prompt, Question

RunConfig = Config | SFTConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """What every run reads, checked."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    train_source: Iterable[Question]
    train_prompts: Sequence[Prompt]
    held_out_prompts: Sequence[Prompt]
    precision: str
    accelerator: str

    @property
    def pad_token_id(self) -> int:
        return pad_token_id(self.tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs(RunInputs):
    """What training from rollouts reads besides."""

    probe_prompts: Sequence[Prompt]
    verifier: Verifier
    callbacks: Sequence[Callback]
    loggers: Sequence[Logger]


def gather_inputs(config: Config) -> Inputs:
    """Reads model files, data and user classes. Raises ConfigError with the cure for bad input."""
    accelerator = resolve_accelerator(config.hardware)
    check_not_redacted(config)
    check_pairs(config, world_size())
    check_trainer(config.trainer)
    callbacks = build_callbacks(config)
    loggers = built_as(config.loggers, "loggers", Logger)
    run = resumed_run(config)
    path, tokenizer = read_model(config, config.rollouts.max_response_tokens)
    prompts, builder = config.prompts, PromptBuilder(tokenizer, config.prompts)
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
    train, probe = set_apart(train, config.rollouts.probe.questions)
    if len(train) < config.rollouts.prompts_per_step:
        apart = f" besides the {len(probe)} of the probe" if probe else ""
        lower = "prompts_per_step" + (", or rollouts.probe.questions," if probe else "")
        raise ConfigError(
            f"rollouts.prompts_per_step is {config.rollouts.prompts_per_step}, but prompts.train has only "
            f"{len(train)} prompts{apart}; lower {lower} or add prompts"
        )
    used = held_out[: config.evaluation.questions]
    check_share(used)
    check_questions(run, config, [*train, *probe])
    warn_of_doubts(config, [*train, *probe], held_out)
    inputs = Inputs(
        model_path=path,
        tokenizer=tokenizer,
        train_source=train_source,
        train_prompts=train,
        held_out_prompts=used,
        probe_prompts=probe,
        verifier=verifier,
        callbacks=callbacks,
        loggers=loggers,
        accelerator=accelerator,
        precision=resolve_precision(config.hardware, accelerator),
    )
    config.engine.fitted("engine", **engine_context(config, inputs))
    return inputs


def set_apart(prompts: Sequence[Prompt], count: int) -> tuple[list[Prompt], list[Prompt]]:
    """What is trained on, and `count` probe questions, or all there are; both in their order.

    The choice depends on the texts alone: runs with other seeds train on the same questions, and a duplicate
    of a probe question is not trained on, but set apart with it.
    """
    texts = {prompt.squeezed for prompt in prompts}
    chosen = set(sorted(texts, key=lambda text: stable_hash(f"probe/{text}"))[:count])
    trained = [prompt for prompt in prompts if prompt.squeezed not in chosen]
    return trained, [prompt for prompt in prompts if prompt.squeezed in chosen]


def resumed_run(config: RunConfig) -> Path | None:
    """The run that `ckpt_path` resumes, if any. Raises ConfigError for settings that must not change."""
    if not config.ckpt_path:
        return None
    run = run_to_resume(config.output, config.name, config.ckpt_path)
    if run is None or not (run / "config.yaml").is_file():
        return None  # a new run; or not a run's checkpoint, which `RunFolder.resume` refuses
    check_resumed(run, config)
    return run


def read_model(
    config: RunConfig, response_tokens: int, setting: str = "rollouts.max_response_tokens"
) -> tuple[str, PreTrainedTokenizerBase]:
    """Path and tokenizer of a model with positions for prompts and `response_tokens`, given by `setting`."""
    given = Path(config.model.path)
    if given.name == "latest" and given.is_symlink():
        raise ConfigError(
            f"model.path: '{given}' is a link that this run will point at itself; give the run that it "
            f"points at, '{given.resolve()}'"
        )
    path, trusted = resolve_model(config.model.path), config.model.trust_remote_code
    tokenizer = load_tokenizer(path, trusted)
    longest = config.prompts.max_prompt_tokens + response_tokens
    settings = f"prompts.max_prompt_tokens + {setting}"
    check_length(load_config(path, trusted), path, longest, settings)
    return path, tokenizer


def check_questions(run: Path | None, config: RunConfig, prompts: Sequence[Prompt]) -> None:
    """Raises ConfigError where `run` had other questions than `prompts`, or drew in another order."""
    if run is not None and (state := stream_state(run, config.ckpt_path or "")):
        check_stream(state, digests(prompts), config.seed)


def check_share(held_out: Sequence[Prompt]) -> None:
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
    updates = config.rollouts.steps * updates_per_rollout_step(config)
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
    for place, prompts in (("prompts.train", train), ("prompts.held_out", held_out)):
        if uids := contradicting(prompts):
            warnings.warn(
                f"{place}: {len(uids)} of {len(prompts)} questions repeat an earlier one with another "
                f"answer, the first is '{uids[0]}'; unless both answers mean the same, no response is "
                "correct for both: remove the wrong rows (init_args.deduplicate of Table keeps the first)",
                stacklevel=3,
            )


def contradicting(prompts: Sequence[Prompt]) -> list[str]:
    """The uids of questions that repeat an earlier one with another answer."""
    first: dict[Hashable, str] = {}
    return [
        prompt.uid
        for prompt in prompts
        if first.setdefault((prompt.squeezed, prompt.messages), prompt.answer) != prompt.answer
    ]


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
