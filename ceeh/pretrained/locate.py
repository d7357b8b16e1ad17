"""Finds what a user names as a model: a base model, an adapter, a run or a checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path

from ceeh.config.loading import read_yaml
from ceeh.config.settings import Config, load
from ceeh.errors import ConfigError
from ceeh.pretrained.adapter import check_over, read_settings
from ceeh.pretrained.loading import resolve_model
from ceeh.run.checkpoint import fault, read_checkpoint
from ceeh.run.folder import RunFolder
from ceeh.runtime.distributed import say
from ceeh.runtime.paths import expanded

KINDS = (
    "'starter', a hub id, a model folder (config.json), a PEFT adapter folder (adapter_config.json), "
    "a run folder (config.yaml), or a .ckpt inside one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model that was found and is not loaded yet.

    Tokenizer, configuration and engine come from `model_path`; for a checkpoint or an adapter that is
    the base model, and the weights of `checkpoint` or `adapter` go over it. `run` and `config` are set
    for what a run left.
    """

    name: str
    model_path: str
    run: RunFolder | None = None
    config: Config | None = None
    checkpoint: Path | None = None
    adapter: Path | None = None
    trust_remote_code: bool = False

    @property
    def rollout_step(self) -> int:
        """The last rollout step that the weights of a run were trained on."""
        assert self.run is not None
        assert self.config is not None
        if self.checkpoint is None:
            return self.run.final_step(self.config.rollouts.steps)
        return read_checkpoint(self.checkpoint, weights=False)["rollout_step"]


def open_trained(place: str, *, trust_remote_code: bool = False) -> ModelSource:
    """Finds the model that `place` names; a run stands for its last weights.

    A run's own `model.trust_remote_code` is ignored: the caller decides. Raises ConfigError for
    anything that is not a model, with what was found and what may be given.
    """
    path = expanded(place)
    if path.suffix == ".ckpt":
        source = _open_checkpoint(path)
        if damage := fault(path):
            raise ConfigError(f"the checkpoint '{path}' cannot be used: {damage}")
    elif (path / "config.yaml").is_file():
        source = _open_run(RunFolder(path))
    elif (path / "adapter_config.json").is_file():
        source = _open_adapter(path, trust_remote_code)
    else:
        source = _open_base(path, place)
    return replace(source, trust_remote_code=trust_remote_code)


def _open_base(path: Path, place: str) -> ModelSource:
    if path.is_file():
        raise ConfigError(f"'{place}' is a file but not a .ckpt; give {KINDS}")
    if path.is_dir() and not (path / "config.json").is_file():
        inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise ConfigError(f"'{place}' is not a model: it contains {inside}; give {KINDS}")
    try:
        model = resolve_model(str(path) if path.is_dir() else place)
    except ConfigError as error:
        raise ConfigError(f"'{place}' does not exist; give {KINDS}") from error
    return ModelSource(name=path.resolve().name if path.is_dir() else place, model_path=model)


def _open_run(run: RunFolder) -> ModelSource:
    name = run.path.resolve().name
    if "rollouts" not in read_yaml(run.config_file):  # supervised training: ceeh.sft
        if not (run.model / "config.json").is_file():
            raise ConfigError(
                f"the supervised run '{run.path}' has no model/ yet; finish it with python -m ceeh.sft and "
                "ckpt_path=last"
            )
        return ModelSource(name=name, model_path=str(run.model))
    config = load([run.config_file])
    steps, last = config.rollouts.steps, run.last_rollout_step()
    if (run.model / "config.json").is_file() and last in (None, run.final_step(steps)):
        return ModelSource(name=name, model_path=str(run.model), run=run, config=config)
    newest = run.newest_checkpoint()
    if newest is None:
        raise ConfigError(
            f"the run '{run.path}' ended before its first checkpoint and has no model/; start it again, "
            f"or give {KINDS}"
        )
    say(
        f"run '{run.path}' stopped at rollout step {last or 0} of {steps}; "
        f"using its newest checkpoint, {newest}"
    )
    return replace(_open_checkpoint(newest), name=name)


def _open_checkpoint(file: Path) -> ModelSource:
    if not file.exists():
        raise ConfigError(f"the checkpoint '{file}' does not exist; give {KINDS}")
    run = RunFolder(file.resolve().parent.parent)
    settings = run.config_file
    if not settings.is_file():
        raise ConfigError(
            f"the checkpoint '{file}' is outside a run folder: {settings}, which names its base model, "
            "does not exist; move it into checkpoints/ of its run"
        )
    config = load([settings])
    try:
        model = resolve_model(config.model.path)
    except ConfigError as error:
        raise ConfigError(
            f"the checkpoint '{file}' needs the base model of its run: {error}; start from the folder "
            f"that the path is relative to, or correct it in {settings}"
        ) from error
    name = f"{run.path.name}/{file.stem}"
    return ModelSource(name=name, model_path=model, run=run, config=config, checkpoint=file)


def _open_adapter(folder: Path, trust_remote_code: bool) -> ModelSource:
    settings, file = read_settings(folder), folder / "adapter_config.json"
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{file}: base_model_name_or_path is empty; write the base model there")
    try:
        model = resolve_model(base)
    except ConfigError as error:
        raise ConfigError(
            f"{file}: cannot find its base model: {error}; correct base_model_name_or_path"
        ) from error
    check_over(folder, model, trust_remote_code=trust_remote_code)
    return ModelSource(name=folder.resolve().name, model_path=model, adapter=folder)
