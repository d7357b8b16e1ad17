"""The one configuration: frozen structured dataclasses, loaded from YAML and command line, validated.

Every field carries its rule; `load` merges files and `key=value` overrides, later ones winning.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ceeh.component import Component, ConfigError

Rule = tuple[str, Callable[[Any], bool]]
Schema = TypeVar("Schema")


def _rule(words: str, holds: Callable[[Any], bool], default: Any) -> Any:
    return field(default=default, metadata={"rule": (words, holds)})


def _positive(default: float | int) -> Any:
    return _rule("greater than 0", lambda value: value > 0, default)


def _at_least(bound: float | int, default: Any) -> Any:
    return _rule(f"at least {bound}", lambda value: value is None or value >= bound, default)


def _open_unit(default: float) -> Any:
    return _rule("in (0, 1)", lambda value: 0 < value < 1, default)


def _one_of(*names: str) -> Any:
    return _rule("one of " + ", ".join(names), lambda value: value in names, names[0])


def _text_or_null(default: str | None = None) -> Any:
    return _rule(
        "a text, or null for none", lambda value: value is None or bool(value.strip()), default
    )


@dataclass(frozen=True)
class LoRA:
    rank: int = _at_least(0, 0)
    alpha: float = _positive(32.0)
    dropout: float = _rule("in [0, 1)", lambda value: 0 <= value < 1, 0.0)
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])


@dataclass(frozen=True)
class Model:
    path: str = "starter"
    trust_remote_code: bool = False
    attention: str = _one_of("sdpa", "eager", "flash_attention_2")
    gradient_checkpointing: bool = False
    head_chunk_tokens: int = _positive(1024)
    lora: LoRA = field(default_factory=LoRA)


@dataclass(frozen=True)
class Prompts:
    train: Component = field(default_factory=Component)
    held_out: Component = field(default_factory=Component)
    max_prompt_tokens: int = _positive(512)
    chat_template: bool = False
    system_prompt: str | None = None
    instruction: str | None = _text_or_null()


@dataclass(frozen=True)
class DynamicSampling:
    max_rounds: int = _at_least(1, 1)
    limit_tokens: int | None = _at_least(1, None)


@dataclass(frozen=True)
class Rollouts:
    steps: int = _positive(60)
    prompts_per_step: int = _positive(32)
    completions_per_prompt: int = _at_least(2, 12)
    temperature: float = _positive(1.0)
    top_p: float = _rule(
        "1.0: top-p renormalises the engine's log-probs and biases the ratio; sample with temperature only",
        lambda value: value == 1.0,
        1.0,
    )
    max_response_tokens: int = _positive(256)
    seeds: str = _one_of("request", "step")
    dynamic_sampling: DynamicSampling = field(default_factory=DynamicSampling)
    canary_tolerance: float | None = _rule(
        "greater than 0, or null for the precision's default",
        lambda value: value is None or value > 0,
        None,
    )


@dataclass(frozen=True)
class Entropy:
    method: str = _one_of("me", "ea", "uniform", "none")
    coefficient: float = _at_least(0, 0.001)
    hard_factor: float = _at_least(1, 5.0)
    anneal: str = _one_of("cosine", "none")
    advantage_alpha: float = _at_least(0, 0.4)
    advantage_kappa: float = _rule("greater than 1", lambda value: value > 1, 2.0)


@dataclass(frozen=True)
class Objective:
    shaping: Component = field(
        default_factory=lambda: Component("ceeh.modules.shaping.OptimalLengthPenalty")
    )
    advantage: str = _one_of("group_mean", "group_std", "leave_one_out", "batch_std")
    aggregation: str = _one_of("token_mean", "sequence_mean", "constant")
    entropy: Entropy = field(default_factory=Entropy)
    hard_signal: str = "hard"
    clip_low: float = _open_unit(0.2)
    clip_high: float = _positive(0.28)
    dual_clip: float | None = _rule(
        "greater than 1, or null", lambda value: value is None or value > 1, 3.0
    )
    kl_coefficient: float = _at_least(0, 0.001)
    old_logprobs: str = _one_of("engine", "trainer")
    importance_cap: float = _at_least(1, 2.0)


@dataclass(frozen=True)
class Optimizer:
    lr: float = _positive(1e-4)
    beta1: float = _open_unit(0.9)
    beta2: float = _open_unit(0.999)
    weight_decay: float = _at_least(0, 0.0)
    warmup_steps: int = _at_least(0, 0)
    schedule: str = _one_of("constant", "linear", "cosine")
    max_grad_norm: float = _positive(1.0)
    prompts_per_minibatch: int = _positive(32)
    tokens_per_microbatch: int = _positive(16384)


@dataclass(frozen=True)
class Hardware:
    accelerator: str = _one_of("auto", "cpu", "cuda")
    precision: str = _rule(
        "auto, 32-true or bf16-mixed: half precision *-true rounds the weights' small updates away",
        lambda value: value in ("auto", "32-true", "bf16-mixed"),
        "auto",
    )
    threads: int = _at_least(0, 0)


@dataclass(frozen=True)
class Evaluation:
    questions: int = _positive(1000)
    samples: int = _at_least(1, 8)
    split_samples: int = _at_least(1, 4)
    every_n_steps: int = _at_least(0, 0)
    bootstrap_draws: int = _at_least(100, 2000)


@dataclass(frozen=True)
class Checkpoints:
    every_n_steps: int = _positive(10)
    keep: int = _at_least(1, 2)


@dataclass(frozen=True)
class Tracking:
    rollouts_every_n_steps: int = _at_least(0, 5)
    mlflow: bool = True
    mlflow_uri: str = "sqlite:///mlflow.db"
    experiment: str = "ceeh"


@dataclass(frozen=True)
class Config:
    name: str = _rule(
        "letters, digits, '.', '_' and '-', not starting with '.'",
        lambda value: (
            bool(value) and value[0] != "." and all(c.isalnum() or c in "._-" for c in value)
        ),
        "ceeh",
    )
    seed: int = _at_least(0, 0)
    output: str = "runs"
    ckpt_path: str | None = None
    model: Model = field(default_factory=Model)
    prompts: Prompts = field(default_factory=Prompts)
    rollouts: Rollouts = field(default_factory=Rollouts)
    engine: Component = field(default_factory=lambda: Component("ceeh.data.vllm_engine.VLLMEngine"))
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
    """The `schema` that `files` and `key=value` overrides fill, later ones winning, validated.

    Raises ConfigError for a missing file, broken YAML, an unknown or missing key, a wrong type or a
    value out of range.
    """
    merged = _empty(schema)
    for file in files:
        for key, value in _read(Path(file)).items():
            merged = _merge(merged, {key: value}, f"{file}: {key}")
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.replace("_", "").replace(".", "").isalnum():
            raise ConfigError(
                f"'{override}' is not an override; write key=value, e.g. optimizer.lr=1e-5"
            )
        merged = _merge(merged, OmegaConf.from_dotlist([override]), override)
    return _validated(merged, "")


def fill(schema: type[Schema], values: Mapping[str, Any], place: str) -> Schema:
    """The `schema` that `values` fill, validated as `load` does; `place` is their config path."""
    merged = _empty(schema)
    for key, value in values.items():
        merged = _merge(merged, {key: value}, f"{place}.{key}")
    return _validated(merged, f"{place}.")


def _empty(schema: type) -> Any:
    merged = OmegaConf.structured(schema)
    OmegaConf.set_readonly(merged, False)
    return merged


def _validated(merged: Any, prefix: str) -> Any:
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError(
            "\n".join(f"{prefix}{key} is missing and must be given" for key in missing)
        )
    config = OmegaConf.to_object(merged)
    if problems := list(_broken_rules(config, prefix)):
        raise ConfigError("\n".join(problems))
    return config


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML that `load` reads back to the same."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no file '{path}'; paths are relative to {Path.cwd()}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, got a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _merge(merged: Any, addition: Any, place: str) -> Any:
    try:
        _forget_other_arguments(merged, addition)
        return OmegaConf.merge(merged, addition)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        words = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise ConfigError(f"{place}: {words}") from error


def _forget_other_arguments(merged: Any, addition: Any) -> None:
    """Another class does not inherit the arguments of the one whose place it takes."""
    if not OmegaConf.is_dict(merged) or not isinstance(addition, Mapping | DictConfig):
        return
    if "class_path" in addition and merged.get("class_path") not in (None, addition["class_path"]):
        OmegaConf.set_readonly(merged, False)
        merged.init_args = {}
    for key in addition:
        if key in merged and key != "init_args":  # an argument may be called class_path itself
            _forget_other_arguments(merged[key], addition[key])


def _broken_rules(node: Any, place: str) -> Iterator[str]:
    for item in fields(node):
        value, path = getattr(node, item.name), f"{place}{item.name}"
        if is_dataclass(value):
            yield from _broken_rules(value, f"{path}.")
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{path} must be a finite number, got {value}"
        elif (rule := item.metadata.get("rule")) and not rule[1](value):
            yield f"{path} must be {rule[0]}, got {value!r}"
