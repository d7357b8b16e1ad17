"""The memory of ceeh's engine: weights, KV cache and work."""

from dataclasses import dataclass

from ceeh.config.settings import Config
from ceeh.data.engine import vllm_options as vllm
from ceeh.errors import ConfigError
from ceeh.memory.devices import GIB, Devices
from ceeh.memory.rows import longest_row, rollout_rows
from ceeh.memory.shapes import FP32, ModelShapes

VLLM_ENGINE, KV_BLOCK_TOKENS = "ceeh.data.engine.VLLMEngine", {"cuda": 16, "cpu": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """Of ceeh's engine. `weights`, `kv_cache` and `work` (its largest moment) are bytes.

    `longest`: tokens of a full-length sequence in whole cache blocks. `sequences`: sampled at once.
    """

    weights: int
    kv_cache: int
    work: int
    sleep: bool
    sequences: int
    bytes_per_token: int
    longest: int

    @property
    def kv_tokens(self) -> int:
        return self.kv_cache // self.bytes_per_token


def engine_memory(
    config: Config, shapes: ModelShapes, devices: Devices, *, compute: int
) -> EngineMemory | None:
    """None for another engine, of which nothing is known.

    Work: the MLP on a full batch; sampling with fp32 logits, log-probs, probabilities and noise; a push
    of the embedding or of two MLP matrices, which LoRA sums in fp32. The CPU packs a second head. Devices
    that share an engine split its weights, key-value heads and sequences; its work counts whole.
    """
    if config.engine.class_path != VLLM_ENGINE:
        return None
    given, cuda = config.engine.init_args, devices.kind == "cuda"
    options, kv_cache_gib = given.get("options") or {}, given.get("kv_cache_gib")
    if given.get("sleep") and not cuda:
        raise ConfigError("engine.init_args.sleep needs CUDA; set it to false")
    if kv_cache_gib is None and "gpu_memory_utilization" in options:
        raise ConfigError(
            "engine.init_args.options.gpu_memory_utilization gives the KV cache whatever is free when "
            "the engine starts, which cannot be planned; set engine.init_args.kv_cache_gib instead"
        )
    limits = vllm.default_batch_limits(devices.size if cuda else None)
    options = limits | vllm.default_options(cpu=not cuda) | options
    # Without chunked prefill a whole prompt is in a batch.
    batched = max(options["max_num_batched_tokens"], longest_row(config))
    auto = 2 if cuda else FP32
    dtype = {None: compute, "auto": auto, "float32": FP32, "float": FP32}.get(given.get("dtype"), 2)
    mlp, embedding = shapes.layer["gate_proj"][1], shapes.vocabulary * shapes.width
    lora, block = config.model.lora.rank > 0, KV_BLOCK_TOKENS[devices.kind]
    default_gib = vllm.DEFAULT_KV_CACHE_GIB[devices.kind]
    base = shapes.parameters - (shapes.trained if lora else 0)
    shared_by = given.get("tensor_parallel", 1)
    kv_width = shapes.layer["k_proj"][1] // min(shared_by, shapes.kv_heads)
    return EngineMemory(
        weights=dtype * (base if cuda else base + embedding) // shared_by,
        kv_cache=int(GIB * (default_gib if kv_cache_gib is None else kv_cache_gib)),
        work=max(
            batched * dtype * (3 * mlp + 4 * shapes.width),
            options["max_num_seqs"] * shapes.vocabulary * (dtype + 4 * FP32),
            dtype * embedding,
            (2 * dtype + 3 * FP32 * lora) * shapes.width * mlp,
        ),
        sleep=bool(given.get("sleep")),
        sequences=min(options["max_num_seqs"], shared_by * rollout_rows(config, devices)),
        bytes_per_token=2 * shapes.layers * kv_width * dtype,
        longest=-(-longest_row(config) // block) * block,
    )
