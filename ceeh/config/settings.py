"""The one configuration: what each setting is, its default and its rule.

`load` merges files and `key=value` overrides, later ones winning, and validates.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

from omegaconf import OmegaConf

from ceeh.config.component import Component
from ceeh.config.loading import Schema, merged
from ceeh.config.rules import (
    at_least,
    file_name,
    location,
    one_of,
    open_unit,
    positive,
    rule,
    text_or_null,
)
from ceeh.errors import ConfigError
from ceeh.runtime.text import HIDDEN, flatten, redact


@dataclass(frozen=True)
class LoRA:
    rank: int = at_least(0, 0)
    alpha: float = positive(32.0)
    dropout: float = rule("in [0, 1)", lambda value: 0 <= value < 1, 0.0)
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])


@dataclass(frozen=True)
class Model:
    path: str = "starter"
    trust_remote_code: bool = False
    attention: str = one_of("sdpa", "eager", "flash_attention_2")
    gradient_checkpointing: bool = False
    head_chunk_tokens: int = positive(128)
    lora: LoRA = field(default_factory=LoRA)


@dataclass(frozen=True)
class Prompts:
    train: Component = field(default_factory=Component)
    held_out: Component = field(default_factory=Component)
    max_prompt_tokens: int = positive(512)
    chat_template: bool = False
    system_prompt: str | None = None
    instruction: str | None = text_or_null()


@dataclass(frozen=True)
class DynamicSampling:
    max_rounds: int = at_least(1, 1)
    limit_tokens: int | None = at_least(1, None)


@dataclass(frozen=True)
class Rollouts:
    steps: int = positive(60)
    prompts_per_step: int = positive(32)
    completions_per_prompt: int = at_least(2, 12)
    temperature: float = positive(1.0)
    top_p: float = rule(
        "1.0: top-p renormalizes the engine's log-probs and biases the ratio; sample with temperature only",
        lambda value: value == 1.0,
        1.0,
    )
    max_response_tokens: int = positive(256)
    seeds: str = one_of("request", "step")
    dynamic_sampling: DynamicSampling = field(default_factory=DynamicSampling)
    canary_tolerance: float | None = rule(
        "greater than 0, or null for the precision's default",
        lambda value: value is None or value > 0,
        None,
    )


@dataclass(frozen=True)
class Entropy:
    method: str = one_of("me", "ea", "uniform", "none")
    coefficient: float = at_least(0, 0.001)
    hard_factor: float = at_least(1, 5.0)
    anneal: str = one_of("cosine", "none")
    advantage_alpha: float = at_least(0, 0.4)
    advantage_kappa: float = rule("greater than 1", lambda value: value > 1, 2.0)


@dataclass(frozen=True)
class Objective:
    shaping: Component = field(
        default_factory=lambda: Component("ceeh.modules.shaping.OptimalLengthPenalty")
    )
    advantage: str = one_of("group_mean", "group_std", "leave_one_out", "batch_std")
    aggregation: str = one_of("token_mean", "sequence_mean", "constant")
    entropy: Entropy = field(default_factory=Entropy)
    hard_signal: str = "hard"
    clip_low: float = open_unit(0.2)
    clip_high: float = positive(0.28)
    dual_clip: float | None = rule(
        "greater than 1, or null", lambda value: value is None or value > 1, 3.0
    )
    kl_coefficient: float = at_least(0, 0.001)
    old_logprobs: str = one_of("engine", "trainer")
    importance_cap: float = at_least(1, 2.0)


@dataclass(frozen=True)
class Optimizer:
    lr: float = positive(1e-4)
    beta1: float = open_unit(0.9)
    beta2: float = open_unit(0.999)
    weight_decay: float = at_least(0, 0.0)
    warmup_steps: int = at_least(0, 0)
    schedule: str = one_of("constant", "linear", "cosine")
    max_grad_norm: float = positive(1.0)
    prompts_per_minibatch: int = positive(32)
    tokens_per_microbatch: int = positive(16384)
    max_skipped_updates: int = positive(3)


@dataclass(frozen=True)
class Hardware:
    accelerator: str = one_of("auto", "cpu", "cuda")
    precision: str = rule(
        "auto, 32-true or bf16-mixed: half precision *-true rounds the weights' small updates away",
        lambda value: value in ("auto", "32-true", "bf16-mixed"),
        "auto",
    )
    threads: int = at_least(0, 0)


@dataclass(frozen=True)
class Evaluation:
    questions: int = positive(1000)
    samples: int = at_least(1, 8)
    split_samples: int = at_least(1, 4)
    every_n_steps: int = at_least(0, 0)
    bootstrap_draws: int = at_least(100, 2000)


@dataclass(frozen=True)
class Checkpoints:
    every_n_steps: int = positive(10)
    keep: int = at_least(2, 2)
    max_failures: int = positive(3)


@dataclass(frozen=True)
class Tracking:
    rollouts_every_n_steps: int = at_least(0, 5)
    mlflow: bool = True
    mlflow_uri: str = location("sqlite:///mlflow.db")
    experiment: str = "ceeh"


@dataclass(frozen=True)
class Config:
    name: str = file_name("ceeh")
    seed: int = at_least(0, 0)
    output: str = location("runs")
    ckpt_path: str | None = None
    profile: bool = False
    model: Model = field(default_factory=Model)
    prompts: Prompts = field(default_factory=Prompts)
    rollouts: Rollouts = field(default_factory=Rollouts)
    engine: Component = field(default_factory=lambda: Component("ceeh.data.engine.VLLMEngine"))
    verifier: Component = field(default_factory=Component)
    objective: Objective = field(default_factory=Objective)
    optimizer: Optimizer = field(default_factory=Optimizer)
    hardware: Hardware = field(default_factory=Hardware)
    callbacks: dict[str, Component] = field(default_factory=dict)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    tracking: Tracking = field(default_factory=Tracking)


@overload
def load(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config: ...


@overload
def load(files: Sequence[str | Path], overrides: Sequence[str], schema: type[Schema]) -> Schema: ...


def load(files: Sequence[str | Path], overrides: Sequence[str] = (), schema: type = Config) -> Any:
    """The configuration, or another `schema`, of `files` and `key=value` overrides; see `merged`."""
    return merged(files, overrides, schema)


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML that `load` reads back to the same."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(asdict(config))))


def to_public_yaml(config: Config) -> str:
    """`to_yaml` without secrets, as it is written down; `check_not_redacted` is for who reads it."""
    return OmegaConf.to_yaml(OmegaConf.create(redact(_escaped(asdict(config)))))


def check_not_redacted(config: Config) -> None:
    """Raises ConfigError for a setting that was a secret when this configuration was written down."""
    for key, value in flatten(asdict(config)).items():
        if HIDDEN in str(value):
            raise ConfigError(
                f"{key} holds '{HIDDEN}': it was a secret when the file was written; give it again, "
                f"{key}=..., or leave it to the variable of the library that reads it"
            )


def _escaped(node: Any) -> Any:
    """`${` of a text that is no interpolation, as OmegaConf writes it."""
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_escaped(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", node)
    return node


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
