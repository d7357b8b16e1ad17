"""From a configuration to parts: what can fail on bad input is built before any engine starts."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ceeh.base_model import load_tokenizer, resolve_model
from ceeh.callbacks.signal import SignalCallback, check_signals
from ceeh.component import Component, ConfigError, users_code
from ceeh.config import Config, Hardware, check_not_redacted
from ceeh.data.columns import show
from ceeh.data.prompts import PromptBuilder, load_prompts
from ceeh.data.questions import Question
from ceeh.data.rebuilding import RebuildingEngine
from ceeh.data.verify import Verifier
from ceeh.data.verify_checked import CheckedVerifier
from ceeh.modules.policy import Policy
from ceeh.modules.shaping import build_shaping
from ceeh.ranks import from_rank_zero, join_processes, world_size
from ceeh.types import Prompt

CANARY_TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 0.1}
"""Mean difference in nats. fp32 engine and trainer agree to 1e-5; bf16 rounds log-probs by hundredths."""

DTYPE = {"32-true": "float32", "bf16-mixed": "bfloat16"}
"""The engine's, by the trainer's precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a run reads, checked."""

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
    """Reads model files, data and user classes. Raises ConfigError with the cure for whatever is wrong."""
    accelerator = resolve_accelerator(config.hardware)
    check_not_redacted(config)
    check_pairs(config, world_size())
    signals = build_signals(config)
    path = resolve_model(config.model.path)
    tokenizer = load_tokenizer(path, config.model.trust_remote_code)
    prompts = config.prompts
    builder = PromptBuilder(
        tokenizer,
        max_prompt_tokens=prompts.max_prompt_tokens,
        chat_template=prompts.chat_template,
        system_prompt=prompts.system_prompt,
        instruction=prompts.instruction,
    )
    train_source = build_source(prompts.train, "prompts.train")
    train = load_prompts(train_source, builder, "prompts.train")
    held_out_source = build_source(prompts.held_out, "prompts.held_out")
    held_out = load_prompts(held_out_source, builder, "prompts.held_out")
    verifier = build_verifier(config.verifier)
    join_processes(accelerator)
    train = readable(train, verifier, "prompts.train")
    held_out = readable(held_out, verifier, "prompts.held_out")
    if len(train) < config.rollouts.prompts_per_step:
        raise ConfigError(
            f"rollouts.prompts_per_step is {config.rollouts.prompts_per_step}, but prompts.train has only "
            f"{len(train)} prompts; lower the one or add to the other"
        )
    numbered = [
        replace(prompt, metadata=dict(prompt.metadata) | {"held_out_index": index})
        for index, prompt in enumerate(held_out[: config.evaluation.questions])
    ]
    inputs = Inputs(
        model_path=path,
        tokenizer=tokenizer,
        train_source=train_source,
        train_prompts=train,
        held_out_prompts=numbered,
        verifier=verifier,
        signals=signals,
        accelerator=accelerator,
        precision=resolve_precision(config.hardware, accelerator),
    )
    config.engine.fitted("engine", **engine_arguments(config, inputs))
    return inputs


def build_source(component: Component, place: str) -> Iterable[Question]:
    source = component.build(place)
    if not isinstance(source, Iterable):
        raise ConfigError(
            f"{place}: {component.class_path} is no source of questions (ceeh.data.sources), whose "
            "__iter__ gives ceeh.data.questions.Question"
        )
    return source


def build_verifier(component: Component) -> Verifier:
    verifier = component.build("verifier")
    if not isinstance(verifier, Verifier):
        raise ConfigError(
            f"verifier: {component.class_path} is no Verifier (ceeh.data.verify), which can be"
            " called and has answer, unreadable and close; a function of prompt and response goes"
            " through ceeh.data.verify.RewardFunction"
        )
    if type(verifier).__module__ == Verifier.__module__:
        return verifier
    return CheckedVerifier(verifier, component.class_path)


def readable(prompts: Sequence[Prompt], verifier: Verifier, place: str) -> list[Prompt]:
    """The prompts whose reference `verifier` can read; rank 0 decides, and warns of the others.

    Raises ConfigError, on all ranks, when none is left.
    """

    def decide() -> set[str]:
        with users_code(verifier, "fails while it reads references", place="verifier: "):
            dropped = verifier.unreadable(prompts)
        if not dropped:
            return set()
        first = f"'{dropped[0].uid}' the first, with the reference {show(dropped[0].answer)}"
        if len(dropped) == len(prompts):
            raise ConfigError(
                f"{place}: the verifier can read the reference of none of its {len(prompts)}"
                f" prompts, {first}; map the column that holds the final answer alone, or choose"
                " another verifier"
            )
        warnings.warn(
            f"{place}: dropped {len(dropped)} of {len(prompts)} prompts whose reference the verifier"
            f" cannot read, {first}",
            stacklevel=4,
        )
        return {prompt.uid for prompt in dropped}

    uids = from_rank_zero(decide)
    return [prompt for prompt in prompts if prompt.uid not in uids]


def build_signals(config: Config) -> dict[str, SignalCallback]:
    """The callbacks of the configuration, and a check that every signal asked for is written once."""
    callbacks = {}
    for name, component in config.callbacks.items():
        callback = component.build(f"callbacks.{name}")
        if not isinstance(callback, SignalCallback):
            raise ConfigError(
                f"callbacks.{name}: {component.class_path} is not a SignalCallback "
                "(ceeh.callbacks.signal), which every entry of callbacks must be"
            )
        callbacks[name] = callback
    needed = {}
    if config.objective.entropy.method in ("me", "ea"):
        needed["objective.hard_signal"] = config.objective.hard_signal
    for signal in build_shaping(config).reads:
        needed[f"objective.shaping ({signal})"] = signal
    check_signals(list(callbacks.values()), needed)
    return callbacks


def check_pairs(config: Config, processes: int) -> None:
    """Refuses settings that are fine alone and meaningless together, or with `processes` in all."""
    objective = config.objective
    if objective.dual_clip is not None and objective.dual_clip <= 1 + objective.clip_high:
        raise ConfigError(
            f"objective.dual_clip must be above 1 + objective.clip_high = {1 + objective.clip_high}, "
            f"got {objective.dual_clip}"
        )
    for name, value in (
        ("rollouts.prompts_per_step", config.rollouts.prompts_per_step),
        ("optimizer.prompts_per_minibatch", config.optimizer.prompts_per_minibatch),
    ):
        if value % processes:
            raise ConfigError(
                f"{name} is over all processes and must be a multiple of their number "
                f"({processes}), got {value}"
            )
    longest = config.prompts.max_prompt_tokens + config.rollouts.max_response_tokens
    if config.optimizer.tokens_per_microbatch < longest:
        raise ConfigError(
            f"optimizer.tokens_per_microbatch must hold one longest row, prompts.max_prompt_tokens + "
            f"rollouts.max_response_tokens = {longest}, got {config.optimizer.tokens_per_microbatch}"
        )


def resolve_accelerator(hardware: Hardware) -> str:
    """The accelerator to train on. Raises ConfigError for CUDA that torch cannot use."""
    available = torch.cuda.is_available()
    if hardware.accelerator == "cuda" and not available:
        raise ConfigError(
            f"hardware.accelerator is cuda, but {why_no_cuda()}; or set hardware.accelerator=cpu"
        )
    if hardware.accelerator != "auto":
        return hardware.accelerator
    if not available and torch.cuda.device_count() > 0:
        warnings.warn(f"training on the CPU: {why_no_cuda()}", stacklevel=2)
    return "cuda" if available else "cpu"


def why_no_cuda() -> str:
    """Why torch has no CUDA device, and the cure. The driver's own library (NVML) counts GPUs even where
    the CUDA runtime does not start."""
    if torch.cuda.device_count() > 0:
        return (
            f"this torch is built for CUDA {torch.version.cuda} and the NVIDIA driver, which sees "
            f"{torch.cuda.device_count()} GPU(s), cannot run it; update the driver (CUDA 13 needs 580 or "
            "newer)"
        )
    return (
        'torch finds no CUDA device; install the CUDA build (pip install ".[cuda]") on a machine with '
        "a GPU"
    )


def resolve_precision(hardware: Hardware, accelerator: str) -> str:
    """Lightning's precision. Raises ConfigError for bf16 on a GPU without it (before Ampere)."""
    precision = hardware.precision
    if precision == "auto":
        precision = "bf16-mixed" if accelerator == "cuda" else "32-true"
    if (
        precision == "bf16-mixed"
        and accelerator == "cuda"
        and torch.cuda.is_available()  # a plan for other devices asks, too
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ConfigError(
            f"hardware.precision is {precision}, but {torch.cuda.get_device_name()} has no bf16 "
            "arithmetic (Ampere and newer GPUs do); set hardware.precision=32-true"
        )
    return precision


def build_engine(config: Config, inputs: Inputs, policy: Policy) -> RebuildingEngine:
    """The engine of the configuration, built anew with the policy's weights should it fail."""
    return RebuildingEngine(
        lambda: config.engine.build("engine", **engine_arguments(config, inputs)),
        policy.engine_weights,
    )


def engine_arguments(config: Config, inputs: Inputs) -> dict[str, Any]:
    """What an engine may ask for besides its `init_args`."""
    return {
        "model_path": inputs.model_path,
        "max_model_len": config.prompts.max_prompt_tokens + config.rollouts.max_response_tokens,
        "trust_remote_code": config.model.trust_remote_code,
        "seed": config.seed,
        "accelerator": inputs.accelerator,
        "dtype": DTYPE[inputs.precision],
    }
