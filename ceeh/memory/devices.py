"""The devices that a plan is made for: those present, or those named, such as `8x80GB`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ceeh.errors import ConfigError
from ceeh.runtime.distributed import processes_here, world_size

GIB = 2**30
USABLE = 0.95
"""The share of a device that is planned with. An 80 GB H100 shows torch 79.1 GiB, a 24 GB RTX 4090
23.6 GiB, and torch's allocator loses some of the rest to blocks that no longer fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """`count` devices of `size` bytes, one process each; `kind` is cuda or cpu."""

    kind: str
    count: int
    size: int

    @property
    def usable(self) -> int:
        """Bytes of one device that a plan may fill."""
        return int(self.size * USABLE)

    def __str__(self) -> str:
        return f"{self.count} x {self.size / GIB:.0f} GiB ({self.kind})"


def parse_devices(text: str) -> Devices:
    """`8x80GB` is eight CUDA devices, `cpu:24GB` a machine without; GB and GiB are both 2^30 bytes.

    Makers label a device of 80 GiB with 80 GB. Raises ConfigError for anything else.
    """
    match = re.fullmatch(r"(?:(\d+)x|(cpu:))(\d+(?:\.\d+)?)(GB|GiB)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(
            f"--devices must be a number of GPUs and the memory of each, such as 8x80GB, or "
            f"cpu:24GB, got '{text}'"
        )
    count, cpu, size, unit = match.groups()
    if unit is None:
        raise ConfigError(f"--devices: the memory needs a unit, write {text.strip()}GB")
    devices = Devices(
        kind="cpu" if cpu else "cuda", count=int(count or 1), size=int(float(size) * GIB)
    )
    if devices.count < 1 or devices.size < 1:
        raise ConfigError(f"--devices must be at least one device with memory, got '{text}'")
    return devices


def present_devices(accelerator: str) -> Devices:
    """What this run would get here: a device for each of torchrun's processes, one without it."""
    if accelerator == "cuda":
        size = torch.cuda.get_device_properties(0).total_memory
    else:
        size = machine_memory() // processes_here()
    return Devices(kind=accelerator, count=world_size(), size=size)


def machine_memory() -> int:
    """Bytes of main memory, or of the container's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    words = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(words)) if words.isdigit() else total
