"""What a user may name as a model, opened in one place: base, adapter, run or checkpoint, and its policy."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from ceeh.config.settings import Config, load
from ceeh.errors import ConfigError
from ceeh.pretrained.loading import resolve_model
from ceeh.run.checkpoint import fault
from ceeh.run.folder import RunFolder
from ceeh.runtime.distributed import say

KINDS = (
    "'starter', a hub id, a model folder (config.json), a PEFT adapter folder (adapter_config.json), "
    "or a run folder or a .ckpt file inside one (config.yaml)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model as it was named, found and not yet loaded.

    Tokenizer, configuration and engine are opened from `model_path`, the base model of a checkpoint
    or an adapter; `checkpoint` or `adapter` holds weights to put over it. `run` and `config` are
    there for what a run left.
    """

    name: str
    model_path: str
    run: RunFolder | None = None
    config: Config | None = None
    checkpoint: Path | None = None
    adapter: Path | None = None
    trust_remote_code: bool = False


def open_trained(place: str, *, trust_remote_code: bool = False) -> ModelSource:
    """Finds what `place` names: a base model, an adapter, a run (its last weights) or a checkpoint.

    A run's own `model.trust_remote_code` does not count: whoever opens a folder decides.
    Raises ConfigError for anything else, with what is there and what may be given.
    """
    path = Path(place).expanduser()
    if path.suffix == ".ckpt":
        trained = _open_checkpoint(path, trust_remote_code)
        if words := fault(path):
            raise ConfigError(f"the checkpoint '{path}' cannot be taken: {words}")
        return trained
    if (path / "config.yaml").is_file():
        return _open_run(RunFolder(path), trust_remote_code)
    if (path / "adapter_config.json").is_file():
        return _open_adapter(path, trust_remote_code)
    if path.is_dir() and not (path / "config.json").is_file():
        inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise ConfigError(f"'{place}' is no model: it holds {inside}; give {KINDS}")
    if path.is_file():
        raise ConfigError(f"'{place}' is a file and no .ckpt; give {KINDS}")
    name = path.resolve().name if path.is_dir() else place
    try:
        model = resolve_model(str(path) if path.is_dir() else place)
    except ConfigError as error:
        raise ConfigError(f"there is no '{place}'; give {KINDS}") from error
    return ModelSource(name=name, model_path=model, trust_remote_code=trust_remote_code)


def _open_run(run: RunFolder, trust_remote_code: bool) -> ModelSource:
    config = load([run.path / "config.yaml"])
    name = run.path.resolve().name
    steps, last = config.rollouts.steps, run.last_rollout_step()
    if (run.model / "config.json").is_file() and last in (None, steps):
        return ModelSource(
            name=name,
            model_path=str(run.model),
            run=run,
            config=config,
            trust_remote_code=trust_remote_code,
        )
    newest = run.newest_checkpoint()
    if newest is None:
        raise ConfigError(
            f"the run '{run.path}' ended before its first checkpoint and has no model/; start it again, "
            f"or give {KINDS}"
        )
    say(
        f"run '{run.path}' stopped at rollout step {last or 0} of {steps}; "
        f"taking its newest checkpoint, {newest}"
    )
    return replace(_open_checkpoint(newest, trust_remote_code), name=name)


def _open_checkpoint(file: Path, trust_remote_code: bool) -> ModelSource:
    if not file.is_file():
        raise ConfigError(f"there is no checkpoint '{file}'; give {KINDS}")
    run = RunFolder(file.resolve().parent.parent)
    if not (run.path / "config.yaml").is_file():
        raise ConfigError(
            f"the checkpoint '{file}' is outside a run folder: there is no {run.path / 'config.yaml'} "
            "to say what model it belongs to; put it into checkpoints/ of its run"
        )
    config = load([run.path / "config.yaml"])
    try:
        model = resolve_model(config.model.path)
    except ConfigError as error:
        raise ConfigError(
            f"the checkpoint '{file}' needs the base model of its run: {error}; run from the folder "
            f"that the path is relative to, or correct it in {run.path / 'config.yaml'}"
        ) from error
    return ModelSource(
        name=f"{run.path.name}/{file.stem}",
        model_path=model,
        run=run,
        config=config,
        checkpoint=file,
        trust_remote_code=trust_remote_code,
    )


def _open_adapter(folder: Path, trust_remote_code: bool) -> ModelSource:
    file = folder / "adapter_config.json"
    try:
        settings = json.loads(file.read_text())
        kind, base = settings.get("peft_type"), settings.get("base_model_name_or_path")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} is no adapter configuration: {error}") from error
    if kind != "LORA" or settings.get("use_dora") or settings.get("modules_to_save"):
        raise ConfigError(
            f"{file}: only plain LoRA adapters are read (peft_type LORA, no DoRA, no modules_to_save), "
            f"got peft_type {kind}; merge it with peft's merge_and_unload and give the merged folder"
        )
    if not base:
        raise ConfigError(f"{file}: base_model_name_or_path is empty; write the base model there")
    try:
        model = resolve_model(base)
    except ConfigError as error:
        raise ConfigError(
            f"{file}: its base model is not to be had: {error}; correct base_model_name_or_path"
        ) from error
    if not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(
            f"'{folder}' has no adapter_model.safetensors; a pickle (adapter_model.bin) can run code and is "
            "not opened: save the adapter anew with peft's save_pretrained"
        )
    return ModelSource(
        name=folder.resolve().name,
        model_path=model,
        adapter=folder,
        trust_remote_code=trust_remote_code,
    )
