"""Base models and their tokenizers: a local folder, a hub id, or the starter."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ceeh.component import ConfigError
from ceeh.starter.model import MODEL_DIR


def resolve_model(path: str) -> str:
    """A local folder, a hub id, or `starter` for the model that ships with ceeh."""
    if path == "starter":
        path = str(MODEL_DIR)
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: '{path}' has no config.json; give a folder written by save_pretrained"
        )
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ConfigError(f"model.path: no folder '{path}'")
    return path


def load_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path: no model or tokenizer to be had from '{path}' ({first_line(error)}); "
            "give a folder with config.json and tokenizer.json, or a hub id that can be reached"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"model.path: the tokenizer of '{path}' has no end-of-sequence token")
    return tokenizer


def first_line(error: Exception) -> str:
    """What an error of another library says, without the rest of its paragraph."""
    return (str(error).splitlines() or [type(error).__name__])[0]
