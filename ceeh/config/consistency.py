"""Checks of settings against each other and against the number of processes."""

from ceeh.config.objective import check_objective
from ceeh.config.rollouts import check_allocation
from ceeh.config.settings import Checkpoints, Config, Hardware, LoRA, Model, Optimizer, Prompts
from ceeh.errors import ConfigError


def check_lora(lora: LoRA) -> None:
    """Raises ConfigError for settings of an adapter although there is none."""
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


def check_pairs(config: Config, processes: int) -> None:
    """Raises ConfigError for settings that contradict each other or the number of `processes`."""
    check_objective(config.objective)
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
