"""Selects the weights of a run that an export takes, and the results that belong to them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ceeh.config.settings import Config
from ceeh.errors import ConfigError
from ceeh.evaluation.results import read_results_file
from ceeh.export.card import describe_mixture
from ceeh.pretrained.loading import load_config
from ceeh.pretrained.locate import ModelSource, open_trained
from ceeh.reporting.run_page import summary_grid
from ceeh.run.folder import RunFolder
from ceeh.run.places import check_run
from ceeh.run.record import read_record
from ceeh.runtime.versions import weights_digest


def open_run(place: str, checkpoint: Path | None, trust_remote_code: bool) -> ModelSource:
    """The run at `place`, or its `checkpoint`. Raises ConfigError if `place` is not a run."""
    path = check_run(place)
    if checkpoint is None:
        source = open_trained(place, trust_remote_code=trust_remote_code)
        if source.run is None:
            kind = "PEFT adapter" if source.adapter else "model"
            raise ConfigError(
                f"'{place}' is already a {kind}, not a run: nothing to export; give a run folder or a "
                ".ckpt inside one"
            )
        return source
    run = RunFolder(path)
    file = checkpoint if checkpoint.exists() else run.checkpoints / checkpoint
    if not file.exists():
        there = ", ".join(sorted(found.name for found in run.checkpoints.glob("*.ckpt"))) or "none"
        raise ConfigError(
            f"--checkpoint {checkpoint}: no such file; checkpoints of '{run.path}': {there}"
        )
    source = open_trained(str(file), trust_remote_code=trust_remote_code)
    if source.run is None or source.run.path != run.path.resolve():
        raise ConfigError(f"--checkpoint {checkpoint} does not belong to the run '{run.path}'")
    return source


def with_weights_for(
    source: ModelSource, config: Config, *, adapter: bool, dtype: torch.dtype | None
) -> ModelSource:
    """`source`, or the last checkpoint of a finished run if its model/ has too little precision.

    model/ has the adapter merged and the weights rounded to the base's dtype: enough for that dtype,
    and for any dtype if it is float32. Raises ConfigError without an adapter or that checkpoint.
    """
    assert source.run is not None
    run = source.run
    if adapter and config.model.lora.rank == 0:
        raise ConfigError(
            f"the run '{run.path}' trained all weights (model.lora.rank is 0) and has no adapter; "
            "leave out --adapter"
        )
    if source.checkpoint is not None:
        return source
    stored = load_config(source.model_path, source.trust_remote_code).dtype
    if not adapter and (dtype in (None, stored) or stored == torch.float32):
        return source
    if newest := run.newest_checkpoint():
        last = open_trained(str(newest), trust_remote_code=source.trust_remote_code)
        if last.rollout_step == source.rollout_step:
            return replace(last, name=source.name)
    wanted = "--adapter" if adapter else f"--dtype {str(dtype).removeprefix('torch.')}"
    raise ConfigError(
        f"{wanted} needs the final fp32 weights, and '{run.path}' has no checkpoint of rollout step "
        f"{source.rollout_step}; name an earlier one with --checkpoint, or leave out {wanted}"
    )


def evaluation_of(source: ModelSource) -> dict[str, Any] | None:
    """results.json of `ceeh.evaluate RUN` if it measured the weights of `source`."""
    assert source.run is not None
    if source.checkpoint is not None:
        return None
    record = read_results_file(source.run.path / "evaluation" / "results.json")
    same = record is not None and record["model"].get("digest") == weights_digest(source.model_path)
    return record if same else None


def read_summary(run: Path) -> dict[str, Any] | None:
    """A run's summary.json, None without one. Raises ConfigError for a damaged one."""
    cure = (
        "resume the run with ckpt_path=last, which writes it again, or remove it: the card then has no "
        "held-out results"
    )

    def check(summary: Mapping[str, Any]) -> None:
        summary_grid(summary)
        summary["rollout_step"]

    return read_record(run / "summary.json", check, of="python -m ceeh.fit", cure=cure)


def read_mixture(run: Path) -> dict[str, Any] | None:
    """A run's mixture.json, None without one. Raises ConfigError for a damaged one."""
    cure = "restore a copy, or remove it: the card then names the mixture without its counts"
    return read_record(run / "mixture.json", describe_mixture, of="python -m ceeh.fit", cure=cure)
