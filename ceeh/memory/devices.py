"""The devices that a plan is for: named in --devices, or those of this machine."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ceeh.errors import ConfigError
from ceeh.runtime.distributed import processes_here, world_size

GIB = 2**30
USABLE = 0.95
"""Share of a device that a plan may fill. Torch sees 79.1 GiB of an 80 GB H100 and loses some to
fragmentation."""


@dataclass(frozen=True, slots=True)
class Devices:
    """`count` devices of `size` bytes, one process each; `kind` is cuda or cpu."""

    kind: str
    count: int
    size: int

    @property
    def usable(self) -> int:
        return int(self.size * USABLE)

    def __str__(self) -> str:
        return f"{self.count} x {self.size / GIB:.0f} GiB ({self.kind})"


def parse_devices(text: str) -> Devices:
    """`8x80GB`: eight GPUs. `cpu:24GB`: no GPU. GB and GiB both mean 2^30 bytes, as on GPU labels."""
    match = re.fullmatch(r"(?:([1-9]\d*)x|cpu:)(\d*[1-9]\d*(?:\.\d+)?)Gi?B", text.strip(), re.I)
    if match is None:
        raise ConfigError(
            "--devices must be a number of GPUs and the memory of each with its unit, such as 8x80GB, or "
            f"cpu:24GB, got '{text}'"
        )
    gpus, gib = match.groups()
    return Devices("cuda" if gpus else "cpu", int(gpus or 1), int(float(gib) * GIB))


def present_devices(accelerator: str) -> Devices:
    """The devices of this machine: one per process under torchrun."""
    if accelerator == "cuda":
        size = torch.cuda.get_device_properties(0).total_memory
    else:
        size = machine_memory() // processes_here()
    return Devices(accelerator, world_size(), size)


def machine_memory() -> int:
    """Main memory, or the container's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    words = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(words)) if words.isdigit() else total
