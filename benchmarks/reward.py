"""A reward that costs nothing and that random text earns half the time."""

from typing import Any


def even_length(prompt: Any, text: str) -> float:
    """1 for a text with an even number of characters, else 0."""
    return float(len(text) % 2 == 0)
