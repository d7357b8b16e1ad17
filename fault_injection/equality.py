"""How two run folders differ: numbers, weights, tables, rollouts, apart from times."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ceeh.run.checkpoint import fault, read_checkpoint

CLOCK = (
    *("time/", "rollout/tokens_per_second", "optimizer/tokens_per_second", "optimizer/mfu"),
    "train_seconds",
)


def differences(whole: Path, other: Path, *, common: bool = False) -> list[str]:
    """Empty when the run in `other` left the same as the uninterrupted one in `whole`.

    With `common`, only files that both have are compared.
    """
    names = [entries(folder) for folder in (whole, other)]
    if names[0] != names[1] and not common:
        return [f"files: {sorted(names[0] ^ names[1])}"]
    both = sorted(names[0] & names[1])
    found = [words for name in both for words in of_file(name, whole / name, other / name)]
    return found if any(name.endswith(".ckpt") for name in both) else ["no checkpoints to compare"]


def of_file(name: str, one: Path, two: Path) -> Iterator[str]:
    if name.startswith(("rollouts/", "model/")):
        if one.read_bytes() != two.read_bytes():
            yield f"{name}: other bytes"
        return
    if name.endswith(".ckpt") and (words := fault(two)):
        yield f"{name}: {words}"
    read = READERS.get("summary.json" if name == "summary.json" else one.suffix)
    if read is not None:
        yield from unequal(read(one), read(two), name)


def training_state(file: Path) -> dict[str, Any]:
    """A checkpoint without Lightning's counters of the evaluation before training.

    A resumed run reads the results of that evaluation from disk.
    """
    state = read_checkpoint(file)
    del state["loops"]["validate_loop"]
    return state


def held_out_samples(file: Path) -> dict[str, Any]:
    """Without the name of the configuration, which a resumed run may have changed."""
    return {name: values for name, values in np.load(file).items() if name != "settings"}


READERS: dict[str, Callable[[Path], Any]] = {
    ".ckpt": training_state,
    ".npz": held_out_samples,
    ".jsonl": lambda file: [json.loads(line) for line in file.read_text().splitlines()],
    "summary.json": lambda file: json.loads(file.read_text()),
}


def entries(folder: Path) -> set[str]:
    """Files, and distributed checkpoints as a whole.

    Without the configurations of resumed runs, which say what an experiment had changed.
    """
    return {
        str(entry.relative_to(folder))
        for entry in folder.rglob("*")
        if (entry.is_file() or entry.suffix == ".ckpt")
        and entry.parent.suffix != ".ckpt"
        and not entry.name.startswith("config.resumed-")
    }


def unequal(one: Any, two: Any, place: str) -> Iterator[str]:
    """Where nested containers differ, tensors and arrays by their bytes."""
    if type(one) is not type(two):
        yield f"{place}: {type(one).__name__} and {type(two).__name__}"
    elif isinstance(one, dict):
        keys = [{key for key in node if not str(key).startswith(CLOCK)} for node in (one, two)]
        if keys[0] != keys[1]:
            yield f"{place}: keys {sorted(map(str, keys[0] ^ keys[1]))}"
        for key in keys[0] & keys[1]:
            yield from unequal(one[key], two[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(two):
            yield f"{place}: {len(one)} and {len(two)} entries"
        for index, (a, b) in enumerate(zip(one, two, strict=False)):
            yield from unequal(a, b, f"{place}[{index}]")
    elif isinstance(one, Tensor | np.ndarray):
        if raw(one) != raw(two):
            yield f"{place}: other numbers"
    elif one != two and not (one != one and two != two):
        yield f"{place}: {one!r} and {two!r}"


def raw(values: Tensor | np.ndarray) -> tuple[Any, ...]:
    dtype, shape = values.dtype, tuple(values.shape)
    if isinstance(values, Tensor):  # NumPy has no bfloat16
        values = values.contiguous().view(-1).view(torch.uint8).numpy()
    return dtype, shape, values.tobytes()
