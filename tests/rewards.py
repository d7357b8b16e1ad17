"""A reward function for whole runs; apart, for worker processes import it and need no torch."""

from ceeh.types import Prompt


def even_length(prompt: Prompt, response: str) -> float:
    """A reward that a random model earns about half the time."""
    return float(len(response) % 2 == 0)
