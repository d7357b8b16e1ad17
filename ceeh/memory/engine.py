"""What the engine of a configuration will hold, from its arguments and vLLM's own defaults."""

from dataclasses import dataclass

from ceeh.config.settings import Config
from ceeh.data.engine.vllm_engine import DEFAULT_KV_CACHE_GIB, default_options
from ceeh.errors import ConfigError
from ceeh.memory.devices import GIB, Devices

VLLM_ENGINE = "ceeh.data.engine.VLLMEngine"
KV_BLOCK_TOKENS = {"cuda": 16, "cpu": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """`dtype` and `kv_cache` are bytes, of a weight and of the whole cache.

    `batched_tokens` go through the engine at once, and at most `sequences` responses are sampled
    at once. `graphs`: CUDA graphs are captured.
    """

    dtype: int
    kv_cache: int
    sleep: bool
    batched_tokens: int
    sequences: int
    graphs: bool


def engine_settings(config: Config, devices: Devices, precision: str) -> EngineSettings | None:
    """The settings of ceeh's own engine; None for another, of whose memory nothing is known.

    Raises ConfigError for `sleep` without CUDA, and for a KV cache given as a share of the device.
    """
    if config.engine.class_path != VLLM_ENGINE:
        return None
    given, cuda = config.engine.init_args, devices.kind == "cuda"
    options = default_options(cpu=not cuda) | (given.get("options") or {})
    if given.get("sleep") and not cuda:
        raise ConfigError("engine.init_args.sleep needs CUDA; set it to false")
    kv_cache_gib = given.get("kv_cache_gib")
    if kv_cache_gib is None and "gpu_memory_utilization" in (given.get("options") or {}):
        raise ConfigError(
            "engine.init_args.options.gpu_memory_utilization gives the KV cache what is free when "
            "the engine starts, which no plan can know; set engine.init_args.kv_cache_gib instead"
        )
    if kv_cache_gib is None:
        kv_cache_gib = DEFAULT_KV_CACHE_GIB[devices.kind]
    dtype = given.get("dtype", "auto")
    if dtype == "auto":
        dtype = "bfloat16" if precision == "bf16-mixed" else "float32"
    tokens, sequences = vllm_defaults(devices)
    if not options.get("enable_chunked_prefill", True):
        # Without chunks a prompt goes through whole.
        longest = config.prompts.max_prompt_tokens + config.rollouts.max_response_tokens
        tokens = max(tokens, longest)
    return EngineSettings(
        dtype=4 if dtype in ("float32", "float") else 2,
        kv_cache=int(kv_cache_gib * GIB),
        sleep=bool(given.get("sleep", False)),
        batched_tokens=options.get("max_num_batched_tokens", tokens),
        sequences=options.get("max_num_seqs", sequences),
        graphs=cuda and not options.get("enforce_eager", False),
    )


def vllm_defaults(devices: Devices) -> tuple[int, int]:
    """Tokens and sequences that vLLM 0.32 batches unless told: engine/arg_utils.py, LLM class.

    An A100 of 80 GB takes the smaller pair; the larger one is planned, which needs more.
    """
    if devices.kind == "cpu":
        return 4096, 256
    return (16384, 1024) if devices.size >= 70 * GIB else (8192, 256)
