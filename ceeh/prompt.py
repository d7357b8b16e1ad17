"""The prompt, apart from the other types: the processes that judge answers need it and not torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A question ready for the engine. `uid` is stable across runs: the key of every table."""

    uid: str
    text: str
    answer: str
    token_ids: tuple[int, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
