"""How two run folders differ: numbers, weights, tables, rollouts, apart from times."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ceeh.run.checkpoint import fault, read_checkpoint

CLOCK = (
    "time/",
    "rollout/tokens_per_second",
    "optimizer/tokens_per_second",
    "optimizer/mfu",
    "train_seconds",
)


def differences(whole: Path, other: Path, *, common: bool = False) -> list[str]:
    """Empty when the run in `other` left the same as the uninterrupted one in `whole`.

    With `common`, only files that both have are compared.
    """
    return list(_differences(whole, other, common))


def _differences(whole: Path, other: Path, common: bool) -> Iterator[str]:
    names = [file_names(folder) for folder in (whole, other)]
    if names[0] != names[1] and not common:
        yield f"files: {sorted(names[0] ^ names[1])}"
        return
    for name in sorted(names[0] & names[1]):
        one, two = whole / name, other / name
        if name.endswith(".ckpt"):
            if words := fault(two):
                yield f"{name}: {words}"
            yield from unequal(training_state(one), training_state(two), name)
        elif name.endswith(".npz"):
            yield from unequal(dict(np.load(one)), dict(np.load(two)), name)
        elif name.endswith((".jsonl", "summary.json")):
            lines = [
                [json.loads(line) for line in text.splitlines()]
                if name.endswith(".jsonl")
                else json.loads(text)
                for text in (one.read_text(), two.read_text())
            ]
            yield from unequal(*lines, name)
        elif name.startswith(("rollouts/", "model/")) and one.read_bytes() != two.read_bytes():
            yield f"{name}: other bytes"
    if not any(name.endswith(".ckpt") for name in names[0] & names[1]):
        yield "no checkpoints to compare"


def training_state(file: Path) -> dict[str, Any]:
    """A checkpoint without Lightning's counters of the evaluation before training.

    A resumed run reads the results of that evaluation from disk.
    """
    state = read_checkpoint(file)
    del state["loops"]["validate_loop"]
    return state


def file_names(folder: Path) -> set[str]:
    """Without the configurations of resumed runs, which say what a drill had changed."""
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith("config.resumed-")
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
    elif isinstance(one, Tensor):
        if one.dtype != two.dtype or raw(one) != raw(two):
            yield f"{place}: other numbers"
    elif isinstance(one, np.ndarray):
        if one.dtype != two.dtype or one.tobytes() != two.tobytes():
            yield f"{place}: other numbers"
    elif one != two and not (one != one and two != two):
        yield f"{place}: {one!r} and {two!r}"


def raw(tensor: Tensor) -> bytes:
    return (
        bytes(str(tuple(tensor.shape)), "ascii")
        + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    )
