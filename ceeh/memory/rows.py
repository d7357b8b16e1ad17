"""Tokens of the longest row, and rows of one device."""

from ceeh.config.settings import Config
from ceeh.memory.devices import Devices


def longest_row(config: Config) -> int:
    return config.prompts.max_prompt_tokens + config.rollouts.max_response_tokens


def rollout_rows(config: Config, devices: Devices) -> int:
    rollouts = config.rollouts
    return rollouts.prompts_per_step // devices.count * rollouts.completions_per_prompt


def minibatch_rows(config: Config, devices: Devices) -> int:
    """Of one device, at most: a knapsack may give the prompts of one minibatch more than the others."""
    allocation, size = config.rollouts.allocation, config.rollouts.completions_per_prompt
    largest = allocation.maximum if allocation.method == "knapsack" else size
    prompts = config.optimizer.prompts_per_minibatch // devices.count
    return min(prompts * largest, rollout_rows(config, devices))
