"""A question, the identity of its text, and the hash that orders and names questions."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The user's message `text`, the reference `answer`, and what else is known of it.

    `uid` is stable across runs: the key of every table kept per question.
    """

    uid: str
    text: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def squeezed(self) -> str:
        """The text with every run of white space as one space: what makes two questions the same."""
        return " ".join(self.text.split())


def stable_hash(text: str) -> bytes:
    """Eight bytes that depend on `text` alone: the same in every process and version."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
