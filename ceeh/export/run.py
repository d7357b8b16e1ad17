"""An export: the model of a run -> a Hugging Face folder with a card, reloaded and compared, pushed."""

import shlex
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils.logging import disable_progress_bar

from ceeh.errors import ConfigError, RunError, first_line
from ceeh.export.card import COMPLETIONS, SETTINGS, Export, public, write_card
from ceeh.export.reload import check_reload, fixed_sequence, trainer_logprobs
from ceeh.export.source import (
    evaluation_of,
    open_run,
    read_mixture,
    read_summary,
    with_weights_for,
)
from ceeh.modules.restore import load_policy
from ceeh.pretrained.loading import load_tokenizer
from ceeh.run.atomic import atomic_folder
from ceeh.run.folder import RunFolder
from ceeh.run.places import check_folder
from ceeh.runtime.distributed import say
from ceeh.runtime.paths import expanded
from ceeh.runtime.text import redact

DTYPES = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def export(
    place: str,
    out: Path,
    *,
    adapter: bool = False,
    dtype: torch.dtype | None = None,
    checkpoint: Path | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    repo: str | None = None,
    completions: bool = False,
    command: str = "ceeh.export.export",
) -> str:
    """Writes the model of the run at `place` into `out`; returns a summary line.

    With `adapter` a PEFT folder, else the whole model with an adapter merged in fp32 and cast once to
    `dtype`, by default the base model's. The card shows the hub id `repo` and `command`. With `completions`
    the run's responses to held-out questions are copied, too.
    Raises ConfigError for a run, checkpoint or folder that cannot be used, and RunError if the written
    folder does not load or does not give the trainer's log-probs.
    """
    source = open_run(place, checkpoint, trust_remote_code)
    run, config = source.run, source.config
    assert run is not None
    assert config is not None
    out = expanded(out).resolve()
    check_out(out, run, force)
    evaluation = evaluation_of(source)
    source = with_weights_for(source, config, adapter=adapter, dtype=dtype)
    tokenizer = load_tokenizer(source.model_path, trust_remote_code)
    summary, mixture = read_summary(run.path), read_mixture(run.path)
    policy = load_policy(source, temperature=config.rollouts.temperature)
    step, stored = source.rollout_step, dtype or (torch.float32 if adapter else policy.dtype)
    if summary is not None and summary["rollout_step"] != step:
        summary = None  # measured on other weights
    responses = run.path / "held_out" / "tuned.parquet"
    if completions and (summary is None or not responses.is_file()):
        raise ConfigError(
            f"--completions: '{run.path}' has no responses of these weights to held-out questions; leave it "
            "out, or export the final weights of a finished run"
        )
    facts = Export(
        name=source.name,
        repo=repo or out.name,
        config=config,
        rollout_step=step,
        summary=summary,
        evaluation=evaluation,
        mixture=mixture,
        adapter=adapter,
        dtype=str(stored).removeprefix("torch."),
        command=command,
    )
    token_ids = fixed_sequence(len(tokenizer))
    expected, temperature = trainer_logprobs(policy, token_ids), policy.temperature
    with atomic_folder(out) as folder:
        save = policy.save_adapter if adapter else policy.save
        size = save(folder, tokenizer, dtype=dtype)
        del policy, save  # a large model is in memory once
        difference = check_reload(
            folder,
            token_ids,
            expected,
            temperature=temperature,
            dtype=stored,
            trust_remote_code=trust_remote_code,
        )
        if completions:
            shutil.copyfile(responses, folder / COMPLETIONS)
        write_card(folder, facts)
    kind = "adapter" if adapter else "model"
    return (
        f"{kind} of '{source.name}' after rollout step {step}, {facts.dtype}, {size / 1e6:.1f} MB, reloaded "
        f"within {difference.mean:.1g} nats of the trainer: {out}"
    )


def check_out(out: Path, run: RunFolder, force: bool) -> None:
    """Refuses a folder whose contents would be lost; `force` allows to replace an older export."""
    place = run.path.resolve()
    if out == place or place in out.parents:
        raise ConfigError(
            f"OUT '{out}' is inside the run folder '{place}'; give a folder outside it"
        )
    if out in place.parents:
        raise ConfigError(f"OUT '{out}' contains the run '{place}'; give another folder")
    check_folder(out, "OUT")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / SETTINGS).is_file() or any(each.is_dir() for each in out.iterdir()):
        raise ConfigError(
            f"OUT '{out}' is not empty and not an export (it has no {SETTINGS}, or it has folders), so "
            "--force does not replace it; give another folder"
        )
    if not force:
        raise ConfigError(f"OUT '{out}' already contains an export; --force replaces the folder")


def push(folder: Path, repo: str, *, private: bool, message: str = "Export of a ceeh run") -> str:
    """Uploads `folder` and returns its address. Raises RunError; the folder stays complete."""
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except Exception as error:  # an outside service: it and the network may raise anything
        raise RunError(
            f"'{repo}' was not pushed: {redact(first_line(error))}; the folder is complete, push it later "
            f"with: {upload_command(folder, repo, private=private)}"
        ) from error
    return f"https://huggingface.co/{repo}"


def upload_command(folder: Path, repo: str, *, private: bool) -> str:
    """What a user types to upload `folder` later."""
    return f"hf upload {repo} {folder}{' --private' if private else ''}"


def check_push(repo: str, place: str = "--push-to-hub") -> None:
    """Raises ConfigError for an invalid hub id or a missing token, before anything is written.

    `place` is where the user named the hub id.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{place}: '{repo}' is not a hub id; write user/name") from error
    if get_token() is None:
        raise ConfigError(f"{place} needs a token; set HF_TOKEN, or run: hf auth login")


def run(given: Namespace, words: Sequence[str]) -> None:
    """Exports as the command's arguments say; the card shows their `words` without places of this machine."""
    disable_progress_bar()
    if given.push_to_hub:
        check_push(given.push_to_hub)
    shown = shlex.join(public({"path": word})["path"] for word in words)
    try:
        line = export(
            given.run,
            given.out,
            adapter=given.adapter,
            dtype=DTYPES[given.dtype],
            checkpoint=given.checkpoint,
            force=given.force,
            trust_remote_code=given.trust_remote_code,
            repo=given.push_to_hub,
            completions=given.completions,
            command=f"python -m ceeh.export {shown}",
        )
    except OSError as error:
        raise RunError(f"{error}; nothing was exported") from error
    say(line)
    if given.push_to_hub:
        say(push(given.out, given.push_to_hub, private=given.private))
