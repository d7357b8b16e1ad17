"""The `hardware` settings resolved and applied on this machine."""

import importlib.util
import warnings

import torch

from ceeh.config.settings import Config, Hardware
from ceeh.config.sft import SFTConfig
from ceeh.errors import ConfigError

CANARY_TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 0.1}
"""Mean difference in nats by precision. In fp32 engine and trainer agree to 1e-5; bf16 rounds log-probs to
hundredths."""

DTYPE = {"32-true": "float32", "bf16-mixed": "bfloat16"}
"""The engine's dtype by the trainer's precision."""


def resolve_accelerator(hardware: Hardware) -> str:
    """cpu or cuda. Raises ConfigError for cuda where torch cannot use it."""
    available = torch.cuda.is_available()
    if hardware.accelerator == "cuda" and not available:
        raise ConfigError(
            f"hardware.accelerator is cuda, but {why_no_cuda()}; or set hardware.accelerator=cpu"
        )
    if hardware.accelerator != "auto":
        return hardware.accelerator
    if not available and torch.cuda.device_count() > 0:
        warnings.warn(f"training on the CPU: {why_no_cuda()}", stacklevel=2)
    return "cuda" if available else "cpu"


def why_no_cuda() -> str:
    """Why torch has no CUDA device, and the cure. NVML counts GPUs even where CUDA does not start."""
    if torch.cuda.device_count() > 0:
        return (
            f"torch is built for CUDA {torch.version.cuda}, which the NVIDIA driver cannot run although it "
            f"sees {torch.cuda.device_count()} GPU(s); update the driver (CUDA 13 needs 580 or newer)"
        )
    return (
        "torch finds no CUDA device; install the CUDA build (see docs/install.md) on a machine with a "
        "GPU"
    )


def resolve_precision(hardware: Hardware, accelerator: str) -> str:
    """Lightning's precision. Raises ConfigError for bf16 on a GPU older than Ampere."""
    precision = hardware.precision
    if precision == "auto":
        precision = "bf16-mixed" if accelerator == "cuda" else "32-true"
    if (
        precision == "bf16-mixed"
        and accelerator == "cuda"
        and torch.cuda.is_available()  # --dry-run may plan for a GPU that is not here
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ConfigError(
            f"hardware.precision is {precision}, but {torch.cuda.get_device_name()} has no bf16 "
            "arithmetic (Ampere and newer GPUs do); set hardware.precision=32-true"
        )
    return precision


def check_quantization(config: Config | SFTConfig, accelerator: str) -> None:
    """Raises ConfigError for quantized weights or moments without CUDA or without bitsandbytes."""
    for key, value, default in (
        ("model.lora.base", config.model.lora.base, "model"),
        ("optimizer.moments", config.optimizer.moments, "fp32"),
    ):
        if value == default:
            continue
        if accelerator != "cuda":
            raise ConfigError(
                f"{key} is {value}, which needs CUDA, and this run is on the CPU; set {key}={default}"
            )
        if torch.cuda.is_available() and importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(
                f"{key} is {value}, which needs bitsandbytes; install it with "
                f'pip install ".[quantized]", or set {key}={default}'
            )


def check_attention(config: Config | SFTConfig, accelerator: str) -> None:
    """Raises ConfigError for flash_attention_2 without CUDA, bf16 or a package that has it."""
    if config.model.attention != "flash_attention_2":
        return
    words, cure = (
        "model.attention is flash_attention_2, which needs",
        "model.attention=varlen or sdpa",
    )
    if accelerator != "cuda":
        raise ConfigError(f"{words} CUDA, and this run is on the CPU; set {cure}")
    if resolve_precision(config.hardware, accelerator) != "bf16-mixed":
        raise ConfigError(f"{words} hardware.precision=bf16-mixed; set that, or {cure}")
    packages = ("flash_attn", "kernels")  # transformers loads the hub's build with the second
    if torch.cuda.is_available() and not any(map(importlib.util.find_spec, packages)):
        raise ConfigError(f"{words} the package flash-attn, or kernels; install one, or set {cure}")


def set_threads(hardware: Hardware) -> None:
    """Sets torch's number of CPU threads where `hardware.threads` is given."""
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
