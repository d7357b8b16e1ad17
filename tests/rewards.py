"""A reward function for whole runs. Worker processes import this file, so it must not import torch."""

from ceeh.types import Prompt


def even_length(prompt: Prompt, response: str) -> float:
    """A reward that a random model earns about half the time."""
    return float(len(response) % 2 == 0)


def never(prompt: Prompt, response: str) -> float:
    return 0.0
