"""The configuration of a run: its sections, each setting with its default, description and rule.

`rollouts` and `objective` have files of their own; `consistency.py` checks settings against each other.
"Paper" is arXiv 2602.22642 and "eq." one of its equations. docs/configuration.md is made from these files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ceeh.config.component import Component
from ceeh.config.loading import merged
from ceeh.config.objective import Objective
from ceeh.config.rollouts import Rollouts
from ceeh.config.rules import (
    FILE_NAME,
    LOCATION,
    OPEN_UNIT,
    POSITIVE,
    SEED,
    TEXT,
    TRACKING_URI,
    UNIT_BELOW_1,
    Rule,
    at_least,
    setting,
)
from ceeh.config.trainer import PASSED_ON


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
