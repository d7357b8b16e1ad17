"""Checkpoints as they are named, checked and read back: never by running what is in them."""

import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ceeh.errors import ConfigError, first_line
from ceeh.runtime.distributed import say

RESUMED = {"loops", "callbacks", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"}
"""What of a checkpoint a run needs to go on, besides its weights."""
PREFIX = "policy."
"""Of the policy's weights among those of the LightningModule."""


def checkpoint_file(folder: Path, rollout_step: int) -> Path:
    return folder / f"step-{rollout_step:06d}.ckpt"


def checkpoint_files(folder: Path) -> dict[int, Path]:
    """Rollout step -> file, the newest first."""
    found = {
        int(match[1]): file
        for file in folder.glob("step-*.ckpt")
        if (match := re.fullmatch(r"step-(\d+)\.ckpt", file.name))
    }
    return dict(sorted(found.items(), reverse=True))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest that is neither damaged nor poisoned, None where there is no checkpoint at all.

    Says in one line which it passed over and why. Raises ConfigError when none is left.
    """
    skipped = []
    for file in checkpoint_files(folder).values():
        if (words := fault(file)) is None:
            if skipped:
                say(f"taking {file.name}, the newest good checkpoint; not {'; not '.join(skipped)}")
            return file
        skipped.append(f"{file.name}: {words}")
    if skipped:
        raise ConfigError(
            f"no checkpoint in '{folder}' can be taken; {'; '.join(skipped)}. Put a copy back if there is "
            "one, or start anew without ckpt_path"
        )
    return None


def fault(file: Path) -> str | None:
    """Why a checkpoint must not be taken; None for a good one. Reads all of it.

    The checksums are those that torch writes into its archives, a CRC-32 of each record.
    """
    try:
        state = read_checkpoint(file)
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except ConfigError as error:
        return str(error)
    # What zipfile raises for an archive with wrong bytes in its directory.
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        return f"it is damaged ({first_line(error)})"
    if damaged is not None:
        return f"it is damaged (wrong checksum of {damaged})"
    if name := not_finite(state):
        return f"it holds numbers that are not finite, in {name} the first"
    return None


def not_finite(state: dict[str, Any]) -> str | None:
    """The first of a checkpoint's weights and optimizer numbers that is NaN or infinite."""
    # Not of the tables: a question of which nothing is known is NaN there.
    for part in ("state_dict", "optimizer_states"):
        for name, value in tensors(state.get(part), part):
            if value.is_floating_point() and value.numel():
                # Propagates NaN, and makes no copy as isfinite would.
                low, high = value.aminmax()
                if not (math.isfinite(float(low)) and math.isfinite(float(high))):
                    return name
    return None


def tensors(node: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested containers, with their places."""
    if isinstance(node, Tensor):
        yield place, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from tensors(value, f"{place}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from tensors(value, f"{place}[{index}]")


def read_checkpoint(file: Path, *, mmap: bool = True) -> dict[str, Any]:
    """What a checkpoint holds; with `mmap` tensors are left on disk until they are used.

    Raises ConfigError for a file that is damaged, or that only running code could read.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except (
        Exception
    ) as error:  # a foreign file: on wrong bytes torch's unpickler raises whatever it stumbles on
        raise ConfigError(
            f"'{file}' cannot be read as a checkpoint of a run: it is damaged, or foreign and would run "
            f"code; nothing in it was run ({first_line(error)}); give another file of checkpoints/"
        ) from error
    if not isinstance(state, dict) or not {"state_dict", "rollout_step"} <= state.keys():
        raise ConfigError(f"'{file}' holds no run's weights; give a .ckpt that ceeh.fit wrote")
    return state


def rollout_step_of(file: Path) -> int:
    """The step after which a run goes on from `file`.

    Raises ConfigError for a file that holds weights and not a run's whole state.
    """
    state = read_checkpoint(file)
    if missing := RESUMED - state.keys():
        raise ConfigError(
            f"ckpt_path: '{file}' cannot be continued from, it lacks {', '.join(sorted(missing))}; give "
            "a .ckpt as ceeh.fit wrote it, or set model.path to a model's folder"
        )
    return state["rollout_step"]


def policy_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The policy's weights in a checkpoint, under the names that `Policy` has for them."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in state["state_dict"].items()
        if name.startswith(PREFIX)
    }
