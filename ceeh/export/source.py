"""Which weights of a run an export takes, and which figures belong to them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ceeh.config.settings import Config
from ceeh.errors import ConfigError
from ceeh.pretrained.loading import load_config
from ceeh.pretrained.locate import ModelSource, open_trained
from ceeh.run.checkpoint import read_checkpoint
from ceeh.run.folder import RunFolder


def open_run(place: str, checkpoint: Path | None, trust_remote_code: bool) -> ModelSource:
    """The run at `place`, at `checkpoint` if that is given. Raises ConfigError for what is no run."""
    path = Path(place).expanduser()
    if not path.exists():
        runs = sorted(found.parent.name for found in path.parent.glob("*/config.yaml"))
        there = f"; runs in {path.parent}: {', '.join(runs)}" if runs else ""
        raise ConfigError(f"there is no run '{place}'{there}")
    if checkpoint is not None:
        return _open_checkpoint_of(RunFolder(path), checkpoint, trust_remote_code)
    trained = open_trained(place, trust_remote_code=trust_remote_code)
    if trained.run is None:
        raise ConfigError(
            f"'{place}' is no run but a {'PEFT adapter' if trained.adapter else 'model'} already: there is "
            "nothing to export; give a run folder or a .ckpt inside one"
        )
    return trained


def _open_checkpoint_of(run: RunFolder, checkpoint: Path, trust_remote_code: bool) -> ModelSource:
    file = checkpoint if checkpoint.is_file() else run.checkpoints / checkpoint
    if not file.is_file():
        there = ", ".join(sorted(found.name for found in run.checkpoints.glob("*.ckpt"))) or "none"
        raise ConfigError(
            f"--checkpoint {checkpoint}: no such file; those of '{run.path}': {there}"
        )
    chosen = open_trained(str(file), trust_remote_code=trust_remote_code)
    if chosen.run is None or chosen.run.path != run.path.resolve():
        raise ConfigError(f"--checkpoint {checkpoint} is not of the run '{run.path}'")
    return chosen


def with_weights_for(
    trained: ModelSource,
    run: RunFolder,
    config: Config,
    *,
    adapter: bool,
    dtype: torch.dtype | None,
) -> ModelSource:
    """`trained`, or the checkpoint of a finished run's end where its model/ does not hold enough.

    model/ has the adapter merged and rounded to the base's dtype: enough for that dtype, and for any
    if it is float32. Raises ConfigError when there is no such checkpoint, and no adapter.
    """
    if adapter and config.model.lora.rank == 0:
        raise ConfigError(
            f"the run '{run.path}' trained all weights (model.lora.rank is 0), so it has no adapter; "
            "leave out --adapter"
        )
    if trained.checkpoint is not None:
        return trained
    stored = load_config(trained.model_path, trained.trust_remote_code).dtype
    if not adapter and (dtype in (None, stored) or stored == torch.float32):
        return trained
    wanted = "--adapter" if adapter else f"--dtype {str(dtype).removeprefix('torch.')}"
    if newest := run.newest_checkpoint():
        last = open_trained(str(newest), trust_remote_code=trained.trust_remote_code)
        if rollout_step(last, config) == config.rollouts.steps:
            return replace(last, name=trained.name)
    raise ConfigError(
        f"{wanted} needs the fp32 weights of the run's end, and '{run.path}' has no checkpoint of rollout "
        f"step {config.rollouts.steps}; name an earlier one with --checkpoint, or leave out {wanted}"
    )


def rollout_step(trained: ModelSource, config: Config) -> int:
    """The rollout step after which the weights are."""
    if trained.checkpoint is None:
        return config.rollouts.steps
    return read_checkpoint(trained.checkpoint)["rollout_step"]


def mixture_of(run: RunFolder) -> Mapping[str, Any] | None:
    """What the run's mixture of training questions drew and left out, if it had one."""
    file = run.path / "mixture.json"
    return json.loads(file.read_text()) if file.is_file() else None


def summary_of(run: RunFolder, config: Config, step: int) -> Mapping[str, Any] | None:
    """The run's figures if they are of the weights after `step`."""
    file = run.path / "summary.json"
    if not file.is_file():
        return None
    summary = json.loads(file.read_text())
    measured_at = summary.get("rollout_step", config.rollouts.steps)
    return summary if measured_at == step else None
