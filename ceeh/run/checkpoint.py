"""Checkpoint files: their names, their checks, and reading them without running anything in them."""

import math
import re
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from ceeh.errors import ConfigError, first_line
from ceeh.run.shards import COMMON, SHARDED, Rows, damage, joined, read_archive, tensors
from ceeh.runtime.distributed import say

RNG_STATES = "rng_states"
BASE_WEIGHTS = "base_weights"
"""Entry for the digest of the weights that the run began with."""
RESUMED = {
    *("loops", "callbacks", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"),
    RNG_STATES,
}
"""Entries, besides the weights, without which a run cannot resume."""
ROWS = "rows"
"""Entry for the rows of sharded tensors, while a distributed checkpoint is checked."""
PREFIX = "policy."
"""Of the policy's weights among those of the LightningModule."""


def checkpoint_file(folder: Path, rollout_step: int) -> Path:
    return folder / f"step-{rollout_step:06d}.ckpt"


def checkpoint_files(folder: Path) -> dict[int, Path]:
    """Rollout step -> file, or folder of a distributed checkpoint, newest first."""
    found = {
        int(match[1]): file
        for file in folder.glob("step-*.ckpt")
        if (match := re.fullmatch(r"step-(\d+)\.ckpt", file.name))
    }
    return dict(sorted(found.items(), reverse=True))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is neither damaged nor has NaN or infinity; None where there is none at all.

    Prints which ones it skipped and why. Raises ConfigError when it skipped all of them.
    """
    skipped = []
    for file in checkpoint_files(folder).values():
        if (words := fault(file)) is None:
            if skipped:
                say(f"resuming from {file.name}; skipped {'; '.join(skipped)}")
            return file
        skipped.append(f"{file.name}: {words}")
    if skipped:
        raise ConfigError(
            f"ckpt_path: no checkpoint in '{folder}' can be loaded; {'; '.join(skipped)}. Restore a copy if "
            "you have one, or start a new run without ckpt_path"
        )
    return None


def fault(file: Path) -> str | None:
    """Why a run cannot resume from a checkpoint; None for a good one. Reads all of it.

    The checksums are those of torch's archives, a CRC-32 of each record, or of a folder's manifest.
    """
    try:
        if file.is_dir():
            if words := damage(file):
                return words
            rows = Rows(file).files
            state, damaged = read_checkpoint(file, weights=False) | {ROWS: rows}, None
        else:
            state = read_checkpoint(file)
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
    except ConfigError as error:
        return str(error)
    # zipfile raises all of these for an archive with wrong bytes in its directory.
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError) as error:
        return f"it is damaged ({first_line(error)})"
    if damaged is not None:
        return f"it is damaged (wrong checksum of {damaged})"
    if name := not_finite(state):
        return f"it contains NaN or infinity, first in {name}"
    return None


def not_finite(state: dict[str, Any]) -> str | None:
    """The first weight or optimizer state that has NaN or infinity.

    Callback tables may have NaN: it means that nothing is known of a question.
    """
    for part in (*SHARDED, ROWS):
        for name, value in tensors(state.get(part), part):
            if value.is_floating_point() and value.numel() and not value.is_meta:
                # Propagates NaN, and makes no copy as isfinite would.
                low, high = value.aminmax()
                if not (math.isfinite(float(low)) and math.isfinite(float(high))):
                    return name
    return None


def read_checkpoint(file: Path, *, mmap: bool = True, weights: bool = True) -> dict[str, Any]:
    """A checkpoint's content; with `mmap` the tensors of a file stay on disk until they are used.

    Without `weights` sharded tensors are meta tensors, and their files are not opened. Raises ConfigError for
    what is damaged, not whole, or cannot be read without running code.
    """
    state = read_archive(file / COMMON if file.is_dir() else file, mmap=mmap)
    if not isinstance(state, dict) or not {"state_dict", "rollout_step"} <= state.keys():
        raise ConfigError(
            f"'{file}' does not contain the weights of a run; give a .ckpt that ceeh.fit wrote"
        )
    return joined(file, state) if file.is_dir() and weights else state


def rollout_step_of(file: Path) -> int:
    """The rollout step of a checkpoint. Raises ConfigError for one that a run cannot resume from."""
    state = read_checkpoint(file, weights=False)
    if missing := RESUMED - state.keys():
        raise ConfigError(
            f"ckpt_path: a run cannot resume from '{file}', it lacks {', '.join(sorted(missing))}; give "
            "a .ckpt that ceeh.fit wrote, or set model.path to a model folder"
        )
    return state["rollout_step"]


def check_base(file: Path, digest: str, path: str) -> None:
    """Raises ConfigError where a checkpoint's run began with other weights than those at `path`.

    `digest` is that of the weights at `path` now.
    """
    before = read_checkpoint(file, weights=False).get(BASE_WEIGHTS, digest)
    if before != digest:
        raise ConfigError(
            f"ckpt_path: the weights in model.path '{path}' are not those that the run was started with "
            f"(digest {digest}, in the checkpoint {before}); restore them, or start a new run without "
            "ckpt_path"
        )


def policy_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's policy weights, by their names in `Policy`."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in state["state_dict"].items()
        if name.startswith(PREFIX)
    }
