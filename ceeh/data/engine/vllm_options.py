"""The settings of `VLLMEngine`: which options a user may give, their defaults and their checks."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ceeh.data.engine.vllm_process import INSTALL
from ceeh.errors import ConfigError, first_line
from ceeh.runtime.distributed import check_group_size

REFUSED = {
    "model": "it is that of the run or evaluation",
    "max_model_len": "it is max_prompt_tokens + max_response_tokens; set these",
    "trust_remote_code": "set model.trust_remote_code, or --trust-remote-code",
    "seed": "set seed",
    "dtype": "set engine.init_args.dtype",
    "enable_sleep_mode": "set engine.init_args.sleep",
    "kv_cache_memory_bytes": "set engine.init_args.kv_cache_gib",
    "tensor_parallel_size": "set engine.init_args.tensor_parallel",
    "data_parallel_size": "ranks that share no engine each have one already",
    "logprobs_mode": "the log-probs must be those of the sampled distribution",
    "skip_tokenizer_init": "the engine needs the tokenizer's end token",
}
DEFAULT_KV_CACHE_GIB = {"cpu": 1.0, "cuda": 4.0}


def default_options(*, cpu: bool) -> dict[str, Any]:
    """Defaults that `options` can change: quiet; on the CPU eager; one engine per rank under torchrun."""
    options: dict[str, Any] = {"disable_log_stats": True, "use_tqdm_on_load": False}
    if cpu:
        # Eager starts 20 s sooner than compiled and needs no C++ compiler at run time.
        # Chunked prefill rewinds a seeded request's rng, which is impossible on the CPU.
        options |= {"enforce_eager": True, "max_num_seqs": 512, "enable_chunked_prefill": False}
    else:
        # The KV cache has its size in bytes. vLLM only checks at the start that this share of the device
        # is free, and the default, nearly all of it, never is next to a trainer.
        options["gpu_memory_utilization"] = 0.05
        # fp32 logits, as the trainer's. No difference on the starter; not measured at a large vocabulary.
        options["hf_overrides"] = {"head_dtype": "float32"}
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        options["distributed_executor_backend"] = "external_launcher"
    return options


def default_batch_limits(device_bytes: int | None) -> dict[str, int]:
    """vLLM 0.32's own limits, by the memory of the GPU, None for the CPU (engine/arg_utils.py, `LLM`).

    An A100 of 80 GB gets the smaller pair; this returns the larger one, an upper bound.
    """
    if device_bytes is None:
        return {"max_num_batched_tokens": 4096, "max_num_seqs": 256}
    if device_bytes < 70 * 2**30:
        return {"max_num_batched_tokens": 8192, "max_num_seqs": 256}
    return {"max_num_batched_tokens": 16384, "max_num_seqs": 1024}


def merge_options(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` over `defaults`; `hf_overrides` are merged key by key."""
    merged = dict(defaults) | dict(options)
    if isinstance(options.get("hf_overrides"), Mapping):
        merged["hf_overrides"] = defaults.get("hf_overrides", {}) | dict(options["hf_overrides"])
    return merged


def kv_cache_bytes(
    kv_cache_gib: float | None, options: Mapping[str, Any], *, cpu: bool
) -> int | float | None:
    """The bytes of each rank's KV cache; None where `options` give it a share of the device."""
    if kv_cache_gib is None and "gpu_memory_utilization" not in options:
        kv_cache_gib = DEFAULT_KV_CACHE_GIB["cpu" if cpu else "cuda"]
    return kv_cache_gib and int(kv_cache_gib * 2**30)


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that another setting decides or that breaks training."""
    for name in options:
        if name in REFUSED:
            raise ConfigError(
                f"engine.init_args.options.{name} cannot be set here: {REFUSED[name]}"
            )


def check_init_args(init_args: Mapping[str, Any], model: Any, *, processes: int, here: int) -> None:
    """What `VLLMEngine` checks of its arguments before vLLM starts. Raises ConfigError."""
    check_options(init_args.get("options") or {})
    shared_by = init_args.get("tensor_parallel", 1)
    check_tensor_parallel(shared_by, model, processes=processes, here=here)


def check_tensor_parallel(size: Any, model: Any, *, processes: int, here: int) -> None:
    """Raises ConfigError unless `size` of the `processes`, `here` on each machine, can share an engine.

    `model` is the model's config: its attention heads are split.
    """
    setting = "engine.init_args.tensor_parallel"
    check_group_size(size, processes=processes, here=here, setting=setting)
    heads = getattr(model.get_text_config(), "num_attention_heads", size)
    if heads % size:
        raise ConfigError(
            f"{setting} is {size}, but the {heads} attention heads of the model cannot be split into as many "
            "equal parts; set a divisor of their number"
        )


def check_device(accelerator: str, *, sleep: bool, cpu: bool) -> None:
    """Raises ConfigError where the installed vLLM is not built for `accelerator`, or cannot `sleep`."""
    if accelerator not in ("auto", "cpu" if cpu else "cuda"):
        raise ConfigError(
            f"hardware.accelerator is {accelerator}, but the installed vLLM is the build for "
            f"{'the CPU' if cpu else 'CUDA'}; {INSTALL}"
        )
    if sleep and cpu:
        raise ConfigError("engine.init_args.sleep needs CUDA, vLLM found none; set it to false")


def cannot_serve(model_path: str, error: ValueError) -> ConfigError:
    """The error of a user whose model or settings vLLM refuses."""
    return ConfigError(
        f"vLLM cannot serve '{model_path}' with these settings ({refusal(error)}); "
        "docs/models.md lists the families that were tried"
    )


def refusal(error: ValueError) -> str:
    """What vLLM refuses, in a line; pydantic's first line only counts the errors."""
    return error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
