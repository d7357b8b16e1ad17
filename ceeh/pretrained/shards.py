"""Writes weights as safetensors files for `from_pretrained` and vLLM, with one file in memory at a time."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ceeh.errors import ConfigError

MAX_SHARD_BYTES = 5_000_000_000


def write_shards(
    folder: Path, weights: Iterable[tuple[str, Tensor]], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> int:
    """Writes `weights` in the given order and returns their bytes; several files get an index.

    A file has at most `max_shard_bytes`, unless a single weight is larger. Raises ConfigError for a
    weight that is not finite: training diverged, or the dtype cannot represent it.
    """
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    size = total = 0

    def flush() -> None:
        try:
            save_file(held, folder / _partial(len(shards)), metadata={"format": "pt"})
        except SafetensorError as error:  # wraps the system's error, such as a full disk
            raise OSError(f"cannot write weights into {folder}: {error}") from error
        shards.append(list(held))
        held.clear()

    for name, weight in weights:
        if not bool(torch.isfinite(weight).all()):
            raise ConfigError(
                f"the weight '{name}' is not finite as {str(weight.dtype).removeprefix('torch.')}; write "
                "--dtype bfloat16 or float32, or use an earlier --checkpoint if training itself diverged"
            )
        if held and size + weight.nbytes > max_shard_bytes:
            flush()
            size = 0
        held[name] = weight.contiguous().cpu()
        size += weight.nbytes
        total += weight.nbytes
    flush()
    names = [
        "model.safetensors"
        if len(shards) == 1
        else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    for number, name in enumerate(names):
        (folder / _partial(number)).rename(folder / name)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {
                weight: name for name, shard in zip(names, shards, strict=True) for weight in shard
            },
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return total


def _partial(number: int) -> str:
    """A file's name until the number of files is known."""
    return f"model-{number}.partial"
