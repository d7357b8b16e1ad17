"""Seeds, and the rng states of this process: Python's, NumPy's, torch's and CUDA's."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def stable_hash(text: str) -> bytes:
    """Eight bytes that depend on `text` only: the same in every process and version."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2^63) that depends on all parts."""
    return int.from_bytes(stable_hash("\0".join(map(str, parts))), "big") >> 1


def read_rng(device: torch.device) -> dict[str, Any]:
    """The rng states as plain containers, which torch loads with weights_only."""
    version, words, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached_gauss = np.random.get_state()
    states = {
        "python": [version, list(words), gauss],
        "numpy": [algorithm, np.asarray(keys).tolist(), position, has_gauss, cached_gauss],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_rng(states: dict[str, Any], device: torch.device) -> None:
    """Restores the states of `read_rng`; without CUDA, a CUDA state is ignored."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    algorithm, keys, *rest = states["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


@contextmanager
def rng_preserved() -> Iterator[None]:
    """Restores the rng states after the block."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    states = read_rng(device)
    try:
        yield
    finally:
        set_rng(states, device)
