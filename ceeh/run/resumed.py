"""What a resumed run changes of its configuration, and what it must not change."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ceeh.config.loading import parse, read_yaml
from ceeh.config.settings import Config
from ceeh.config.sft import SFTConfig
from ceeh.config.typed import plain, shown
from ceeh.config.writing import to_public_yaml
from ceeh.errors import ConfigError
from ceeh.run.atomic import atomic_write_text
from ceeh.run.checkpoint import checkpoint_files, read_checkpoint
from ceeh.run.folder import config_files
from ceeh.runtime.distributed import say
from ceeh.runtime.lightning_private import loader_states
from ceeh.runtime.text import flatten

FREE = {"name", "output", "ckpt_path"}
"""Where the run is, not what it does."""
KEPT = ("model.path", "model.lora", "verifier", "prompts.train", "rollouts.probe.questions")
"""What a checkpoint rests on. Other held-out questions are measured anew."""
UNTOUCHED = ("workers", "timeout_seconds", "memory_mib", "stall_seconds", "start_seconds")
"""Arguments of a verifier that change no grade."""


def check_resumed(run: Path, config: Config | SFTConfig) -> None:
    """Prints the settings of `config` that differ from those `run` last had, in one line.

    A data set may have moved: whether it is the same is seen from its questions. Raises ConfigError
    for another model, LoRA, verifier or source of questions.
    """
    file = config_files(run)[-1]
    changed = changed_settings(run, config)
    for key, (old, new) in changed.items():
        if not is_kept(key):
            continue
        moved = (
            f"; if it is the same model at another place, write that place into '{file}'"
            if key == "model.path"
            else ""
        )
        raise ConfigError(
            f"ckpt_path: {key} is {shown(new)}, but '{run}' was started with {shown(old)}; resume with "
            f"{key}={shown(old)}, or start a new run without ckpt_path{moved}"
        )
    if changed:
        words = (f"{key}={shown(new)} (was {shown(old)})" for key, (old, new) in changed.items())
        say(f"ckpt_path: resuming '{run}' with {', '.join(words)}")


def changed_settings(run: Path, config: Config | SFTConfig) -> dict[str, tuple[Any, Any]]:
    """Key -> value that `run` last had, and that of `config`, where the two differ."""
    before, now = flatten(read_yaml(config_files(run)[-1])), flatten(parse(to_public_yaml(config)))
    defaults = flatten(plain(type(config)))
    pairs = {
        key: (before.get(key, defaults.get(key)), now.get(key, defaults.get(key)))
        for key in {**before, **now}
        if key not in FREE
    }
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def stream_state(run: Path, ckpt_path: str) -> Mapping[str, Any] | None:
    """The prompt stream's state in the newest readable checkpoint; None where there is none.

    Its weights are not read: whether they are whole is checked when the run resumes.
    """
    last = checkpoint_files(run / "checkpoints").values()
    for file in last if ckpt_path == "last" else [Path(ckpt_path)]:
        with suppress(ConfigError):
            state = read_checkpoint(file, weights=False)
            return next((each["stream"] for each in loader_states(state)), None)
    return None


def is_kept(key: str) -> bool:
    last = key.rpartition(".")[2]
    if key.startswith("prompts.") and last == "path":
        return False
    if key.startswith("verifier.init_args.") and last in UNTOUCHED:
        return False
    return any(f"{key}.".startswith(f"{kept}.") for kept in KEPT)


def write_config(run: Path, config: Config | SFTConfig) -> None:
    """Writes config.yaml, or config.resumed-N.yaml where a resumed run differs from what is there."""
    files, text = config_files(run), to_public_yaml(config)
    if not files[-1].is_file():
        atomic_write_text(files[-1], text)
    elif settings_in(files[-1].read_text()) != settings_in(text):
        atomic_write_text(run / f"config.resumed-{len(files)}.yaml", text)


def settings_in(text: str) -> Mapping[str, Any]:
    """The settings of a written configuration, without where the run is."""
    return {key: value for key, value in parse(text).items() if key not in FREE}
