"""What a user may name as a model, opened in one place: base, adapter, run or checkpoint, and its policy."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ceeh.base_model import resolve_model
from ceeh.checkpoint import fault, policy_weights, read_checkpoint
from ceeh.component import ConfigError
from ceeh.config import Config, Model, load
from ceeh.modules.policy import Policy
from ceeh.ranks import say
from ceeh.run_folder import RunFolder

KINDS = (
    "'starter', a hub id, a model folder (config.json), a PEFT adapter folder (adapter_config.json), "
    "or a run folder or a .ckpt file inside one (config.yaml)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
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


def open_trained(place: str, *, trust_remote_code: bool = False) -> Trained:
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
    return Trained(name=name, model_path=model, trust_remote_code=trust_remote_code)


def _open_run(run: RunFolder, trust_remote_code: bool) -> Trained:
    config = load([run.path / "config.yaml"])
    name = run.path.resolve().name
    steps, last = config.rollouts.steps, run.last_rollout_step()
    if (run.model / "config.json").is_file() and last in (None, steps):
        return Trained(
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


def _open_checkpoint(file: Path, trust_remote_code: bool) -> Trained:
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
    return Trained(
        name=f"{run.path.name}/{file.stem}",
        model_path=model,
        run=run,
        config=config,
        checkpoint=file,
        trust_remote_code=trust_remote_code,
    )


def _open_adapter(folder: Path, trust_remote_code: bool) -> Trained:
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
    return Trained(
        name=folder.resolve().name,
        model_path=model,
        adapter=folder,
        trust_remote_code=trust_remote_code,
    )


def load_policy(
    trained: Trained, *, temperature: float = 1.0, keep_reference: bool = False
) -> Policy:
    """The policy in evaluation mode, with the weights of checkpoint or adapter in it.

    `temperature` is the one that its log-probs are at. Raises ConfigError for a checkpoint that is
    damaged or of another model, and for a base model that is not to be had; no pickle is run.
    """
    settings = trained.config.model if trained.config else Model()
    settings = replace(
        settings,
        gradient_checkpointing=False,
        trust_remote_code=trained.trust_remote_code,
        # The model of a finished run has its adapter merged.
        lora=settings.lora if trained.checkpoint else replace(settings.lora, rank=0),
    )
    weights = trained.checkpoint and policy_weights(read_checkpoint(trained.checkpoint))
    policy = Policy(
        settings,
        trained.model_path,
        temperature=temperature,
        keep_reference=keep_reference,
        adapter=trained.adapter,
    )
    if weights is not None:
        _put(weights, policy, trained)
    return policy.eval()


def _put(weights: dict[str, Tensor], policy: Policy, trained: Trained) -> None:
    """Copies `weights` into the policy; with LoRA they are the adapter alone."""
    own = policy.state_dict()
    trainable = {name for name, value in policy.named_parameters() if value.requires_grad}
    needed = trainable if policy.lora else own.keys()
    missing = sorted(needed - weights.keys())
    foreign = sorted(weights.keys() - own.keys())
    misshapen = sorted(
        name for name in weights.keys() & own.keys() if weights[name].shape != own[name].shape
    )
    for words, names in (
        ("lacks", missing),
        ("has unknown", foreign),
        ("has of another shape", misshapen),
    ):
        if names:
            raise ConfigError(
                f"'{trained.checkpoint}' does not belong to {trained.model_path}: it {words} "
                f"{len(names)} weights, e.g. '{names[0]}'; model.path and model.lora of its run's "
                "config.yaml must be those that it was trained with"
            )
    policy.load_state_dict(weights, strict=False)
