"""The configuration of a run: every setting with its default, description and rule.

"Paper" is arXiv 2602.22642 and "eq." one of its equations. docs/configuration.md is made from this file.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from ceeh.config.component import Component
from ceeh.config.loading import merged
from ceeh.config.rules import (
    FILE_NAME,
    LOCATION,
    OPEN_UNIT,
    POSITIVE,
    SEED,
    TEXT,
    TRACKING_URI,
    UNIT_ABOVE_0,
    UNIT_BELOW_1,
    Rule,
    above,
    at_least,
    setting,
)
from ceeh.config.trainer import PASSED_ON
from ceeh.errors import ConfigError
from ceeh.runtime.text import HIDDEN, flatten, redact


@dataclass(frozen=True)
class LoRA:
    rank: int = setting(0, "Rank of the adapter; 0 trains all weights. Paper: 32.", at_least(0))
    alpha: float = setting(32.0, "The adapter is scaled by alpha / rank. Paper: 32.", POSITIVE)
    dropout: float = setting(
        0.0,
        "Dropout on the adapter's input, in the loss alone: not in old or reference log-probs. The "
        "base model's own dropout is always off.",
        UNIT_BELOW_1,
    )
    target_modules: list[str] = setting(["all-linear"], "Names of the adapted layers.")
    base: Literal["model", "nf4"] = setting(
        "model",
        "Frozen weights. model: in the dtype of their files, in fp32 under 32-true. nf4: 4 bits each "
        "(QLoRA, arXiv 2305.14314), with bitsandbytes on CUDA.",
    )


@dataclass(frozen=True)
class Model:
    path: str = setting(
        "starter", "Local folder, Hub id, or `starter`, the model shipped with ceeh.", path=True
    )
    trust_remote_code: bool = setting(False, "Run Python code that comes with the model.")
    attention: Literal["sdpa", "eager", "varlen", "flash_attention_2"] = setting(
        "sdpa",
        "Attention implementation in transformers. sdpa becomes eager for capped scores (Gemma 2). varlen "
        "(torch's FlashAttention) and flash_attention_2 (the flash-attn package) train on rows without "
        "padding.",
    )
    gradient_checkpointing: bool = setting(
        False, "Recompute activations in the backward pass: less memory, about a third more time."
    )
    head_chunk_tokens: int = setting(
        2048, "Tokens whose logits are in memory at once. Affects memory, not results.", POSITIVE
    )
    lora: LoRA = setting(LoRA, "Low-rank adapter.")


@dataclass(frozen=True)
class Prompts:
    train: Component = setting(Component, "Source of the training questions.")
    held_out: Component = setting(
        Component, "Source of the held-out questions. Must be disjoint from the training questions."
    )
    max_prompt_tokens: int = setting(
        512, "Tokens. Longer prompts are dropped and counted. Paper: 2048.", POSITIVE
    )
    chat_template: bool = setting(False, "Format prompts with the tokenizer's chat template.")
    chat_template_args: dict[str, Any] = setting(
        {}, "Arguments of the chat template, e.g. {enable_thinking: false}."
    )
    date: str | None = setting(
        None, "Day, as YYYY-MM-DD, in chat templates that write a date. Null: today."
    )
    system_prompt: str | None = setting(
        None, "System message of questions without one. Needs chat_template."
    )
    instruction: str | None = setting(None, "Paragraph added after each question.", TEXT)


@dataclass(frozen=True)
class DynamicSampling:
    max_rounds: int = setting(
        1,
        "Rounds of generation per step; 1 turns it off. All-correct and all-incorrect groups are "
        "dropped and replaced (DAPO, arXiv 2503.14476, eq. 11).",
        at_least(1),
    )
    limit_tokens: int | None = setting(
        None, "Tokens. The filter counts longer responses as incorrect (DLER).", at_least(1)
    )


@dataclass(frozen=True)
class Allocation:
    method: Literal["equal", "knapsack"] = setting(
        "equal",
        "equal: completions_per_prompt for each prompt. knapsack: as many in all, more for prompts that "
        "their last visit's accuracy promises to learn most from (Knapsack RL, arXiv 2509.25849).",
    )
    minimum: int = setting(2, "Fewest completions of a prompt under method=knapsack.", at_least(2))
    maximum: int = setting(48, "Most completions of a prompt under method=knapsack.", at_least(2))


@dataclass(frozen=True)
class Probe:
    questions: int = setting(
        0,
        "Training questions that are set apart: answered at each step, never trained on. 0: none.",
        at_least(0),
    )
    samples: int = setting(2, "Responses per probe question and step.", at_least(1))


@dataclass(frozen=True)
class Rollouts:
    steps: int = setting(100, "Rollout steps of the run. Released script: 100.", POSITIVE)
    prompts_per_step: int = setting(
        32, "Questions per rollout step, over all devices. Paper: 512.", POSITIVE
    )
    completions_per_prompt: int = setting(12, "Group size G. Paper: 12.", at_least(2))
    temperature: float = setting(
        1.0,
        "Temperature at which rollouts are sampled, and at which the trainer computes log-probs and "
        "entropies. Paper: 0.6.",
        POSITIVE,
    )
    top_p: float = setting(
        1.0,
        "Fixed: sampling in training uses the temperature alone.",
        Rule(
            "1.0: top-p renormalizes the engine's log-probs and biases the ratio; sample with "
            "temperature only",
            lambda value: value == 1.0,
        ),
    )
    max_response_tokens: int = setting(
        4096, "Tokens. A longer response is truncated and scores 0. Paper: 20480.", POSITIVE
    )
    seeds: Literal["request", "step"] = setting(
        "request", "One sampling seed per request (reproducible) or per step (faster)."
    )
    balance_ranks: bool = setting(
        True,
        "Several processes: each samples questions of about equal total length, by their last visit, "
        "instead of every w-th. Minibatches keep their questions; one process is not affected.",
    )
    allocation: Allocation = setting(
        Allocation, "Completions of each prompt. As many for all by default."
    )
    dynamic_sampling: DynamicSampling = setting(
        DynamicSampling, "Filter of groups. Off by default."
    )
    probe: Probe = setting(
        Probe,
        "Accuracy on questions that are not trained on, at each step: `probe/accuracy`, and for controllers. "
        "Off by default.",
    )
    max_flat_steps: int = setting(
        10,
        "The run stops after this many rollout steps in a row in which every group's rewards are all equal.",
        at_least(1),
    )
    canary_tolerance: float | None = setting(
        None,
        "Nats. Mean log-prob difference between engine and trainer that stops the run. Null: 0.001 "
        "for 32-true, 0.1 for bf16-mixed.",
        POSITIVE,
    )


READ_HARD = ("me", "hard_only", "uniform_mean", "ea")
"""The values of `objective.entropy.method` that need `objective.hard_signal`."""


@dataclass(frozen=True)
class Entropy:
    method: Literal["me", "hard_only", "uniform", "uniform_mean", "ea", "ea_all", "none"] = setting(
        "me",
        "me: bonus in the loss, larger on hard questions (eq. 5, 11). hard_only: me without the bonus on "
        "others. uniform: lambda0 on all. uniform_mean: me's mean over the step's tokens on all. ea: bonus "
        "in the advantage on hard questions (eq. 7, 12). ea_all: ea on all.",
    )
    coefficient: float = setting(
        0.001, "lambda0, weight of the bonus in the loss (eq. 11). Paper: 0.001.", at_least(0)
    )
    coefficient_signal: str | None = setting(
        None, "Signal that lambda0 is read from instead, e.g. of ceeh.callbacks.controllers."
    )
    hard_factor: float = setting(
        5.0,
        "Factor on lambda0 for hard questions in me, hard_only and uniform_mean (eq. 11). Paper: 5.",
        at_least(0),
    )
    anneal: Literal["cosine", "linear", "none"] = setting(
        "cosine",
        "Factor on lambda0 at p = t / (anneal_end T), step t of T: (1 + cos(pi p)) / 2 (eq. 11), 1 - p, or "
        "1; 0 from p = 1 on.",
    )
    anneal_end: float = setting(
        1.0, "Fraction of the run after which the bonus in the loss is 0.", UNIT_ABOVE_0
    )
    top_fraction: float = setting(
        1.0,
        "Fraction of each response's tokens, those of highest entropy when sampled, that get the bonus. "
        "Below 1 it takes a forward pass before the update (arXiv 2506.01939).",
        UNIT_ABOVE_0,
    )
    advantage_alpha: float = setting(
        0.4, "alpha, weight of the entropy in the advantage, ea only (eq. 12).", at_least(0)
    )
    advantage_kappa: float = setting(
        2.0, "kappa; the bonus of ea is at most abs(A) / kappa (eq. 12).", above(1)
    )


@dataclass(frozen=True)
class Objective:
    shaping: Component = setting(
        Component(
            "ceeh.modules.shaping.OptimalLengthPenalty", {"beta": 0.1, "gate": True, "floor": 0.9}
        ),
        "Length reward, a class of ceeh.modules.shaping. The default is eq. 13, 14: correct responses "
        "lose beta (L - L_x) / L_x, at most floor; the gate needs accuracy not below its history.",
    )
    advantage: Literal[
        "group_mean", "group_std", "leave_one_out", "batch_std", "token_whitened"
    ] = setting(
        "group_mean",
        "Baseline and scale of rewards. Paper: group_mean, no division by the std.",
    )
    advantage_boost: float = setting(
        0.0,
        "Added to the advantages of correct responses whose reward is positive (DLER's script: 0.1).",
        at_least(0),
    )
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = setting(
        "token_mean", "Mean over tokens (DAPO), over responses (GRPO), or constant (Dr. GRPO)."
    )
    entropy: Entropy = setting(Entropy, "Entropy bonus.")
    hard_signal: str = setting("hard", "Signal that marks hard questions.")
    policy_loss: Literal["clip", "cispo"] = setting(
        "clip",
        "clip: PPO's clipped ratio (eq. 2-4). cispo: the clipped ratio, without gradient, weights "
        "log-probs (arXiv 2506.13585).",
    )
    ratio: Literal["token", "sequence"] = setting(
        "token",
        "Ratio of each token, or for all tokens of a response their geometric mean (GSPO, arXiv "
        "2507.18071), which takes another forward pass.",
    )
    clip_low: float = setting(
        0.2,
        "Ratios are clipped below at 1 - clip_low (eq. 2-4); 1: no bound. verl: 0.2.",
        UNIT_ABOVE_0,
    )
    clip_high: float = setting(
        0.28, "Ratios are clipped above at 1 + clip_high (eq. 2-4). Paper: 0.28.", POSITIVE
    )
    dual_clip: float | None = setting(
        3.0,
        "Where A < 0 the loss is at most dual_clip abs(A); policy_loss clip only. Null turns it off. "
        "verl: 3.",
        above(1),
    )
    kl_coefficient: float = setting(
        0.001, "Weight of the k3 KL to the starting policy (eq. 2-4). Paper: 0.001.", at_least(0)
    )
    old_logprobs: Literal["engine", "trainer"] = setting(
        "engine",
        "Log-probs in the ratio's denominator: the engine's, or recomputed by the trainer with an "
        "importance correction.",
    )
    importance: Literal["token", "sequence", "token_mask", "sequence_mask", "none"] = setting(
        "token",
        "Importance correction under old_logprobs=trainer: a token's policy loss times pi_old / pi_engine "
        "of the token (token) or of its response (sequence), at most importance_cap. token_mask and "
        "sequence_mask: 0 above the cap instead. none: no correction.",
    )
    importance_cap: float = setting(
        2.0, "Largest weight of the importance correction; see importance.", at_least(1)
    )


@dataclass(frozen=True)
class Optimizer:
    lr: float = setting(
        3e-5,
        "Learning rate of AdamW. Paper: 3e-5 with LoRA.",
        Rule("greater than 0 and at most 1", lambda value: 0 < value <= 1),
    )
    beta1: float = setting(0.9, "AdamW: decay of the mean gradient.", OPEN_UNIT)
    beta2: float = setting(0.999, "AdamW: decay of the mean squared gradient.", OPEN_UNIT)
    weight_decay: float = setting(0.0, "AdamW: decoupled weight decay.", at_least(0))
    moments: Literal["fp32", "8bit"] = setting(
        "fp32",
        "AdamW's two moments. 8bit: quantized in blocks (arXiv 2110.02861), with bitsandbytes on CUDA.",
    )
    warmup_steps: int = setting(0, "Optimizer steps of linear warm-up.", at_least(0))
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "constant", "Learning rate after the warm-up; linear and cosine end at 0."
    )
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this global norm.", POSITIVE)
    prompts_per_minibatch: int = setting(
        32, "Questions per optimizer step, over all devices.", POSITIVE
    )
    tokens_per_microbatch: int = setting(
        16384, "Tokens per forward and backward pass. Affects memory, not results.", POSITIVE
    )
    max_skipped_updates: int = setting(
        3, "Non-finite updates in a row, all skipped, that stop the run.", POSITIVE
    )


@dataclass(frozen=True)
class Hardware:
    accelerator: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda if available.")
    precision: str = setting(
        "auto",
        "auto: bf16-mixed on a GPU, 32-true on the CPU.",
        Rule(
            "auto, 32-true or bf16-mixed: half precision *-true rounds small weight updates away",
            lambda value: value in ("auto", "32-true", "bf16-mixed"),
        ),
    )
    strategy: Literal["auto", "ddp", "fsdp"] = setting(
        "auto",
        "Several processes. ddp: each holds all weights. fsdp: each holds a share of weights, gradients and "
        "moments (FSDP2). auto: ddp.",
    )
    join_minutes: float = setting(
        10.0, "Longest wait at the start for the other processes of a run.", POSITIVE
    )
    collective_minutes: float = setting(
        360.0, "Longest wait for the slowest process, e.g. for its longest response.", POSITIVE
    )
    threads: int = setting(0, "CPU threads of torch; 0 keeps torch's choice.", at_least(0))


@dataclass(frozen=True)
class Evaluation:
    questions: int = setting(1000, "Held-out questions used, at most.", POSITIVE)
    samples: int = setting(8, "Responses per held-out question.", at_least(1))
    split_samples: int = setting(
        4, "Extra base responses that decide which questions count as hard.", at_least(1)
    )
    every_n_steps: int = setting(
        0, "Rollout steps between evaluations; 0: only before and after training.", at_least(0)
    )
    bootstrap_draws: int = setting(2000, "Bootstrap draws per 95 % interval.", at_least(100))


@dataclass(frozen=True)
class Checkpoints:
    every_n_steps: int = setting(10, "Rollout steps between checkpoints.", POSITIVE)
    keep: int = setting(2, "Newest checkpoints kept; older ones are deleted.", at_least(2))
    max_failures: int = setting(3, "Failed saves in a row that stop the run.", POSITIVE)
    stop_grace_seconds: float = setting(
        30.0,
        "Seconds that a stop (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2) waits for the end of a rollout step that "
        "has changed the weights. A step that ends in time is saved; a longer one is lost.",
        at_least(0),
    )
    format: Literal["auto", "full", "distributed"] = setting(
        "auto",
        "full: one file. distributed: a folder to which each process writes its share. auto: distributed "
        "under hardware.strategy=fsdp, else full. A run resumes from either, with any number of processes.",
    )


@dataclass(frozen=True)
class Tracking:
    rollouts_every_n_steps: int = setting(
        5, "Rollout steps between files of sampled responses; 0: none.", at_least(0)
    )
    mlflow: bool = setting(True, "Send metrics and reports to MLflow.")
    mlflow_uri: str = setting(
        "sqlite:///mlflow.db", "MLflow tracking server or database.", TRACKING_URI, path=True
    )
    experiment: str = setting("ceeh", "MLflow experiment.")


@dataclass(frozen=True)
class Config:
    name: str = setting("ceeh", "Name of the run folder: NAME, then NAME-2, ...", FILE_NAME)
    seed: int = setting(0, "Seed of prompt order, sampling and bootstrap.", SEED)
    output: str = setting("runs", "Parent of the run folders.", LOCATION, path=True)
    ckpt_path: str | None = setting(
        None,
        "Checkpoint to resume; `last`: the newest of this name, or a new run if there is none.",
        path=True,
    )
    profile: bool = setting(False, "Write a trace of two rollout steps for ui.perfetto.dev.")
    model: Model = setting(Model, "The policy.")
    prompts: Prompts = setting(Prompts, "Questions and how they become prompts.")
    rollouts: Rollouts = setting(Rollouts, "Sampling of training responses.")
    engine: Component = setting(
        Component("ceeh.data.engine.VLLMEngine"), "Engine that generates responses in this process."
    )
    verifier: Component = setting(Component, "Scores a response in [0, 1]; 1 is correct.")
    objective: Objective = setting(Objective, "Reward, advantage and loss.")
    optimizer: Optimizer = setting(Optimizer, "AdamW and how a rollout step is split.")
    hardware: Hardware = setting(Hardware, "Device and precision.")
    callbacks: dict[str, Component] = setting(
        {}, "Signals (ceeh.callbacks.signal) and other Lightning callbacks, by name."
    )
    loggers: dict[str, Component] = setting(
        {}, "Lightning loggers beside metrics.jsonl and MLflow, by name."
    )
    trainer: dict[str, Any] = setting(
        {},
        f"Arguments of lightning.Trainer, of these: {', '.join(PASSED_ON)}. Any other is an error, which "
        "names the setting to use where there is one.",
    )
    evaluation: Evaluation = setting(Evaluation, "Measurement on the held-out questions.")
    checkpoints: Checkpoints = setting(Checkpoints, "Saving for a resume.")
    tracking: Tracking = setting(Tracking, "Records of the run.")


def load(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """The configuration of `files` and `key=value` overrides; see `merged`."""
    return merged(files, overrides, Config)


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML that `load` reads back to the same."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(asdict(config))))


def to_public_yaml(config: Any) -> str:
    """`to_yaml` with secrets redacted, for files and servers; `check_not_redacted` guards readers."""
    return OmegaConf.to_yaml(OmegaConf.create(redact(_escaped(asdict(config)))))


def check_not_redacted(config: Any) -> None:
    """Raises ConfigError for a setting whose value was redacted when this configuration was written."""
    for key, value in flatten(asdict(config)).items():
        if HIDDEN in str(value):
            raise ConfigError(
                f"{key} holds '{HIDDEN}': the file was written without the secret; give it again, "
                f"{key}=..., or leave it to the environment variable of the library that reads it"
            )


def _escaped(node: Any) -> Any:
    """Escapes `${` in texts, which OmegaConf would read as an interpolation."""
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_escaped(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", node)
    return node


def check_lora(lora: LoRA) -> None:
    """Raises ConfigError for settings of an adapter that there is not."""
    if lora.rank == 0 and lora.base == "nf4":
        raise ConfigError(
            "model.lora.base=nf4 quantizes the frozen weights under an adapter and needs model.lora.rank "
            "above 0, got 0; set model.lora.rank=32, or model.lora.base=model"
        )
    if lora.rank == 0 and lora != LoRA():
        raise ConfigError(
            f"model.lora.rank is 0, which trains all weights, but another setting of model.lora is "
            f"given: {lora}; set model.lora.rank, or remove the others"
        )


def check_sharding(
    hardware: Hardware, model: Model, optimizer: Optimizer, checkpoints: Checkpoints
) -> None:
    """Raises ConfigError for what sharded weights exclude, and for what needs them."""
    if hardware.strategy != "fsdp":
        if checkpoints.format == "distributed":
            raise ConfigError(
                "checkpoints.format=distributed saves the share of weights that each process holds and needs "
                f"hardware.strategy=fsdp, got {hardware.strategy}; set checkpoints.format=full"
            )
        return
    for key, value, only in (
        ("model.lora.base", model.lora.base, "model"),
        ("optimizer.moments", optimizer.moments, "fp32"),
    ):
        if value != only:
            raise ConfigError(
                f"hardware.strategy=fsdp splits weights and moments by rows, which the blocks of "
                f"{key}={value} do not allow; set {key}={only} or hardware.strategy=ddp"
            )


def check_multiple(name: str, value: int, processes: int) -> None:
    """Raises ConfigError unless the processes can share `value` questions evenly."""
    if value % processes:
        raise ConfigError(
            f"{name} is over all processes and must be a multiple of their number "
            f"({processes}), got {value}"
        )


def check_microbatch(
    optimizer: Optimizer, prompts: Prompts, response_tokens: int, name: str
) -> None:
    """Raises ConfigError for one too small for a longest row; `name` is the setting of `response_tokens`."""
    longest = prompts.max_prompt_tokens + response_tokens
    if optimizer.tokens_per_microbatch < longest:
        raise ConfigError(
            "optimizer.tokens_per_microbatch must hold one longest row, prompts.max_prompt_tokens + "
            f"{name} = {longest}, got {optimizer.tokens_per_microbatch}"
        )


def check_allocation(rollouts: Rollouts) -> None:
    """Raises ConfigError for a knapsack without room, or beside dynamic sampling."""
    allocation, size = rollouts.allocation, rollouts.completions_per_prompt
    if allocation.method != "knapsack":
        return
    if not allocation.minimum <= size <= allocation.maximum:
        raise ConfigError(
            f"rollouts.completions_per_prompt ({size}), the mean number, must be from "
            f"rollouts.allocation.minimum ({allocation.minimum}) to rollouts.allocation.maximum "
            f"({allocation.maximum})"
        )
    if rollouts.dynamic_sampling.max_rounds > 1:
        raise ConfigError(
            "rollouts.allocation.method is knapsack and rollouts.dynamic_sampling.max_rounds "
            f"{rollouts.dynamic_sampling.max_rounds}: both choose where completions go; set max_rounds to 1, "
            "or method to equal"
        )


def check_pairs(config: Config, processes: int) -> None:
    """Raises ConfigError for settings that contradict each other or the number of `processes`."""
    objective = config.objective
    dual_clip = objective.dual_clip if objective.policy_loss == "clip" else None
    if dual_clip is not None and dual_clip <= 1 + objective.clip_high:
        raise ConfigError(
            f"objective.dual_clip must be above 1 + objective.clip_high = {1 + objective.clip_high}, "
            f"got {objective.dual_clip}"
        )
    if objective.importance != "token" and objective.old_logprobs == "engine":
        raise ConfigError(
            f"objective.importance is {objective.importance}, but with objective.old_logprobs=engine the "
            "ratio itself corrects for the engine; set objective.old_logprobs=trainer"
        )
    step, minibatch = config.rollouts.prompts_per_step, config.optimizer.prompts_per_minibatch
    check_multiple("rollouts.prompts_per_step", step, processes)
    check_multiple("optimizer.prompts_per_minibatch", minibatch, processes)
    if step > minibatch and step % minibatch:
        raise ConfigError(
            f"rollouts.prompts_per_step ({step}) must be a multiple of optimizer.prompts_per_minibatch, "
            f"got {minibatch}: the last optimizer step would be smaller than the others"
        )
    check_allocation(config.rollouts)
    check_lora(config.model.lora)
    check_sharding(config.hardware, config.model, config.optimizer, config.checkpoints)
    longest = config.rollouts.max_response_tokens
    check_microbatch(config.optimizer, config.prompts, longest, "rollouts.max_response_tokens")
