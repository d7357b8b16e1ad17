"""The run folder: opened at the start, the model written into it at the end."""

from contextlib import ExitStack
from pathlib import Path

from ceeh.assembly.inputs import RunConfig, RunInputs
from ceeh.config.settings import Config
from ceeh.data.mixture.mixture import Mixture
from ceeh.errors import ConfigError
from ceeh.modules.policy import Policy
from ceeh.modules.sharding import gather_weights
from ceeh.run.atomic import atomic_folder
from ceeh.run.checkpoint import check_base, rollout_step_of
from ceeh.run.disk_space import check_space, unwritable, written
from ceeh.run.folder import RunFolder, parent_folder
from ceeh.run.resumed import write_config
from ceeh.runtime.distributed import from_rank_zero, is_rank_zero
from ceeh.tracking.state import read_state


def open_folder(
    config: RunConfig, inputs: RunInputs, policy: Policy, held: ExitStack
) -> tuple[RunFolder, Path | None]:
    """A new run folder, or the one to resume and its checkpoint, claimed until `held` closes.

    Writes the configuration into it, beside that of its start, and the report of a mixture. Raises
    ConfigError for a folder that this user may not write to and for a run of other base weights than those of
    `policy`, and RunError when a checkpoint does not fit on the disk or the disk is full.
    """
    checkpoint_size = policy.checkpoint_bytes
    if config.ckpt_path is None:
        check_space(parent_folder(config.output), checkpoint_size, config.checkpoints.keep)
        folder, checkpoint = RunFolder.create(config.output, config.name), None
        held.enter_context(folder.claimed())
    else:
        folder, checkpoint = RunFolder.resume(config.output, config.name, config.ckpt_path)
        held.enter_context(folder.claimed())
        if config.tracking.mlflow:
            read_state(folder.path)  # a damaged one is refused while the run is as it was
        step = rollout_step_of(checkpoint) if checkpoint else 0
        if checkpoint:
            check_base(checkpoint, policy.base_digest, config.model.path)
        setting, steps = (
            ("rollouts.steps", config.rollouts.steps)
            if isinstance(config, Config)
            else ("steps", config.steps)
        )
        if step > steps:
            raise ConfigError(
                f"{setting} is {steps}, but the checkpoint '{checkpoint}' was written after step {step}; set "
                f"{setting} to {step} or more, or give an earlier checkpoint"
            )
        if config.ckpt_path == "last":
            folder.point_latest()
        with written(folder.path):
            folder.drop_after(step)
        check_space(folder.checkpoints, checkpoint_size, config.checkpoints.keep)
    with written(folder.path / "config.yaml"):
        write_config(folder.path, config)
    if isinstance(inputs.train_source, Mixture):
        with written(folder.path / "mixture.json"):
            inputs.train_source.write(folder.path)
    return folder, checkpoint


def write_model(policy: Policy, folder: RunFolder, inputs: RunInputs) -> None:
    """Rank 0 writes the trained model into the run folder. Collective.

    Raises RunError, on all ranks, when the disk is full, and ConfigError where this user may not write.
    """

    def write() -> None:
        begun = False
        try:
            with atomic_folder(folder.model) as model:
                begun = True
                policy.save(model, inputs.tokenizer)
        except OSError as error:
            if not begun:
                gather_weights(policy)  # the other ranks wait for this one
            what = f"the model cannot be written to '{folder.model}'"
            raise unwritable(what, folder.path, error) from error

    if not is_rank_zero():
        gather_weights(policy)  # `save` gathers the same weights in the same order
    from_rank_zero(write)
