"""Checkpoints as they are read back: never by running what is in them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ceeh.base_model import first_line
from ceeh.component import ConfigError

PREFIX = "policy."
"""Of the policy's weights among those of the LightningModule."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, tensors left on disk until they are used.

    Raises ConfigError for a file that is damaged, or that only running code could read.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ConfigError(
            f"'{file}' cannot be read as a checkpoint of a run: it is damaged, or foreign and would run "
            f"code; nothing in it was run ({first_line(error)}); give another file of checkpoints/"
        ) from error
    if not isinstance(state, dict) or not {"state_dict", "rollout_step"} <= state.keys():
        raise ConfigError(f"'{file}' holds no run's weights; give a .ckpt that ceeh.fit wrote")
    return state


def policy_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The policy's weights in a checkpoint, under the names that `Policy` has for them."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in state["state_dict"].items()
        if name.startswith(PREFIX)
    }
