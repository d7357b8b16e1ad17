"""From a configuration to parts: what can fail on bad input is built before any engine starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ceeh.callbacks.signal import SignalCallback, check_signals
from ceeh.component import ConfigError
from ceeh.config import Config
from ceeh.data.engine import RolloutEngine
from ceeh.data.prompts import PromptBuilder, load_prompts
from ceeh.data.verify import Verifier
from ceeh.ranks import world_size
from ceeh.starter.model import MODEL_DIR
from ceeh.types import Prompt

CANARY_TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 0.5}
"""Nats. fp32 engine and trainer agree to 1e-5; a bf16 engine rounds single log-probs by some tenths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a run reads, checked."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
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
    accelerator = resolve_accelerator(config)
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
    )
    train = load_prompts(prompts.train.build("prompts.train"), builder, "prompts.train")
    held_out = load_prompts(prompts.held_out.build("prompts.held_out"), builder, "prompts.held_out")
    if len(train) < config.rollouts.prompts_per_step:
        raise ConfigError(
            f"rollouts.prompts_per_step is {config.rollouts.prompts_per_step}, but prompts.train has only "
            f"{len(train)} prompts; lower the one or add to the other"
        )
    numbered = [
        replace(prompt, metadata=dict(prompt.metadata) | {"held_out_index": index})
        for index, prompt in enumerate(held_out[: config.evaluation.questions])
    ]
    return Inputs(
        model_path=path,
        tokenizer=tokenizer,
        train_prompts=train,
        held_out_prompts=numbered,
        verifier=config.verifier.build("verifier"),
        signals=signals,
        accelerator=accelerator,
        precision=resolve_precision(config, accelerator),
    )


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
    for signal in config.objective.shaping.build("objective.shaping").reads:
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


def resolve_accelerator(config: Config) -> str:
    available = torch.cuda.is_available()
    if config.hardware.accelerator == "cuda" and not available:
        raise ConfigError(
            "hardware.accelerator is cuda, but torch finds no CUDA device; install the CUDA build "
            '(pip install ".[cuda]") on a machine with a GPU, or set hardware.accelerator=cpu'
        )
    if config.hardware.accelerator == "auto":
        return "cuda" if available else "cpu"
    return config.hardware.accelerator


def resolve_precision(config: Config, accelerator: str) -> str:
    if config.hardware.precision == "auto":
        return "bf16-mixed" if accelerator == "cuda" else "32-true"
    return config.hardware.precision


def resolve_model(path: str) -> str:
    """A local folder, a hub id, or `starter` for the model that ships with ceeh."""
    if path == "starter":
        path = str(MODEL_DIR)
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: '{path}' has no config.json; give a folder written by save_pretrained"
        )
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ConfigError(f"model.path: no folder '{path}'")
    return path


def load_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path: no model or tokenizer to be had from '{path}' ({str(error).splitlines()[0]}); "
            "give a folder with config.json and tokenizer.json, or a hub id that can be reached"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"model.path: the tokenizer of '{path}' has no end-of-sequence token")
    return tokenizer


def build_engine(config: Config, inputs: Inputs) -> RolloutEngine:
    return config.engine.build(
        "engine",
        model_path=inputs.model_path,
        max_model_len=config.prompts.max_prompt_tokens + config.rollouts.max_response_tokens,
        trust_remote_code=config.model.trust_remote_code,
        seed=config.seed,
        accelerator=inputs.accelerator,
        dtype={"32-true": "float32", "bf16-mixed": "bfloat16"}[inputs.precision],
    )
