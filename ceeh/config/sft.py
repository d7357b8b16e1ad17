"""The configuration of supervised training: the sections of a run that it shares, and its length."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ceeh.config.consistency import check_lora, check_microbatch, check_multiple, check_sharding
from ceeh.config.loading import merged
from ceeh.config.rules import FILE_NAME, LOCATION, POSITIVE, SEED, at_least, setting
from ceeh.config.settings import Checkpoints, Hardware, Model, Optimizer, Prompts, Tracking


@dataclass(frozen=True)
class SFTConfig:
    name: str = setting("sft", "Name of the run folder: NAME, then NAME-2, ...", FILE_NAME)
    seed: int = setting(0, "Seed of the order of the examples and of the adapter.", SEED)
    output: str = setting("runs", "Parent of the run folders.", LOCATION, path=True)
    ckpt_path: str | None = setting(
        None,
        "Checkpoint to resume; `last`: the newest of this name, or a new run if there is none.",
        path=True,
    )
    steps: int = setting(
        100, "Optimizer steps, of optimizer.prompts_per_minibatch examples each.", POSITIVE
    )
    max_response_tokens: int = setting(
        4096, "Tokens. Demonstrations with longer responses are dropped and counted.", POSITIVE
    )
    evaluate_every_n_steps: int = setting(
        0, "Steps between evaluations; 0: only before and after training.", at_least(0)
    )
    model: Model = setting(Model, "The policy.")
    prompts: Prompts = setting(
        Prompts, "Demonstrations; held_out, for the loss on unseen ones, may be left out."
    )
    optimizer: Optimizer = setting(Optimizer, "AdamW and how a step is split.")
    hardware: Hardware = setting(Hardware, "Device and precision.")
    checkpoints: Checkpoints = setting(Checkpoints, "Saving for a resume.")
    tracking: Tracking = setting(Tracking, "Records of the run.")


def load_sft(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> SFTConfig:
    """The configuration of `files` and `key=value` overrides; see `merged`."""
    return merged(files, overrides, SFTConfig)


def check_sft_pairs(config: SFTConfig, processes: int) -> None:
    """Raises ConfigError for settings that contradict each other or the number of `processes`."""
    examples = config.optimizer.prompts_per_minibatch
    check_multiple("optimizer.prompts_per_minibatch", examples, processes)
    check_lora(config.model.lora)
    check_sharding(config.hardware, config.model, config.optimizer, config.checkpoints)
    longest = config.max_response_tokens
    check_microbatch(config.optimizer, config.prompts, longest, "max_response_tokens")
