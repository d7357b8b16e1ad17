"""The memory plan of a run: what one device holds, in which phases, and whether it fits.

Sizes are upper bounds in bytes; the tests measure how tight they are. T: tokens of a micro-batch with
padding. D: model width. A: width of all query heads. I: MLP width. V: vocabulary. c: bytes per element in
matrix products, 2 under bf16-mixed, 4 under 32-true. Trained weights and norms: always fp32. Frozen weights
under LoRA and then the residual stream: c if the model's files are in bf16, else fp32.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ceeh.config.hardware import resolve_precision
from ceeh.config.settings import Config, LoRA, Model
from ceeh.data.engine import vllm_engine as vllm
from ceeh.errors import ConfigError, first_line
from ceeh.modules.logits import block_tokens
from ceeh.pretrained.loading import load_config
from ceeh.runtime.distributed import processes_here, world_size

GIB, FP32, NF4_BYTES = 2**30, 4, 4.13 / 8
EIGHT_BIT = 1 + FP32 / 256
"""Bytes of an 8-bit moment: one, and an fp32 scale for each block of 256."""
USABLE = 0.95
"""Share of a device that a plan may fill. Torch sees 79.1 GiB of an 80 GB H100 and loses some to
fragmentation."""
PROCESS, NCCL = {"cpu": int(1.5 * GIB), "cuda": int(1.5 * GIB)}, GIB
"""CPU: Python, torch and vLLM, measured. CUDA: a context of 0.33 GiB (vLLM issue 14452) and graphs of 0.2 to
0.6 GiB (vLLM pulls 11349, 5515), which sleep does not release. NCCL: 0.94 GiB (vLLM pull 11743)."""
PHASES = ROLLOUTS, UPDATE, EVALUATION = "rollouts", "update", "evaluation"
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VLLM_ENGINE, KV_BLOCK_TOKENS = "ceeh.data.engine.VLLMEngine", {"cuda": 16, "cpu": 128}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShapes:
    """Counts are elements. `parameters` includes an adapter; tied weights count once.

    `layer` maps `MATRICES` to (inputs, outputs). `stored`: bytes of a weight in the model's files, 2 for
    bf16 and else 4. `norm_width` sums the widths of a layer's norms, those
    of queries and keys over all heads.
    """

    parameters: int
    trained: int
    largest_trained: int
    layers: int
    width: int
    vocabulary: int
    tied: bool
    norm_width: int
    layer: dict[str, tuple[int, int]]
    stored: int = FP32
    kv_heads: int = 1

    def frozen(self, lora: LoRA, compute: int) -> int:
        """Bytes of a weight that LoRA does not train, and of a number of the residual stream."""
        return max(self.stored, compute) if lora.rank else FP32

    def policy_bytes(self, lora: LoRA, compute: int) -> int:
        packed = (
            self.layers * sum(i * o for i, o in self.layer.values()) if lora.base == "nf4" else 0
        )
        frozen = self.parameters - self.trained - packed if lora.rank else 0
        return FP32 * self.trained + self.frozen(lora, compute) * frozen + int(NF4_BYTES * packed)


def read_shapes(settings: Model, path: str) -> ModelShapes:
    """Builds the model from `path`/config.json without weights.

    Raises ConfigError for a config.json that cannot be used, for layers that differ or hold other
    matrices than `MATRICES`, and for a name in `model.lora.target_modules` that no matrix has.
    """
    remote = settings.trust_remote_code
    config = load_config(path, remote)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=remote)
    except Exception as error:  # a foreign config.json: transformers may raise anything
        raise ConfigError(
            f"model.path: the config.json of '{path}' does not describe a causal language model "
            f"({first_line(error)}); give a folder written by save_pretrained"
        ) from error
    layers: Any = getattr(model.base_model, "layers", None) or [nn.Module()]
    modules = dict(layers[0].named_modules())
    layer = {
        name: (module.in_features, module.out_features)
        for name, module in modules.items()
        if isinstance(module, nn.Linear)
    }
    named = {name.rpartition(".")[2]: size for name, size in layer.items()}
    sizes = {sum(weight.numel() for weight in one.parameters()) for one in layers}
    if sorted(named) != sorted(MATRICES) or len(layer) > len(named) or len(sizes) > 1:
        raise ConfigError(
            f"model.path: no memory plan for {type(model).__name__}: its layers differ or hold other "
            f"matrices than {', '.join(MATRICES)} (Qwen2, Qwen3, Llama, Mistral, ...); train it "
            "without --dry-run"
        )
    adapters: list[int] = []
    for target in settings.lora.target_modules if settings.lora.rank else []:
        chosen = [p for p in layer if target == "all-linear" or f".{p}".endswith(f".{target}")]
        if not chosen:
            raise ConfigError(
                f"model.lora.target_modules: no matrix of the decoder layers is named {target}; use "
                f"['all-linear'], or names among {', '.join(MATRICES)}"
            )
        adapters += [settings.lora.rank * sum(layer[path]) for path in chosen] * len(layers)
    head, weights = model.get_output_embeddings(), [w.numel() for w in model.parameters()]
    width = named["q_proj"][0]
    normed = {"q_norm": named["q_proj"][1], "k_norm": named["k_proj"][1]}
    norms = [name for name, module in modules.items() if "Norm" in type(module).__name__]
    return ModelShapes(
        parameters=sum(weights) + sum(adapters),
        trained=sum(adapters or weights),
        largest_trained=max(adapters or weights),
        layers=len(layers),
        width=width,
        vocabulary=head.weight.shape[0],
        tied=head.weight is model.get_input_embeddings().weight,
        norm_width=sum(normed.get(name.rpartition(".")[2], width) for name in norms),
        layer=named,
        stored=2 if config.dtype == torch.bfloat16 else FP32,
        kv_heads=getattr(config.get_text_config(), "num_key_value_heads", 1),
    )


def layer_activations(shapes: ModelShapes, lora: LoRA, tokens: int, *, compute: int) -> int:
    """What one decoder layer keeps for its backward pass, with sdpa or flash attention.

    Per token each matrix keeps its input and output (c each), the MLP its activation (c I), attention
    its output (c A). Norms keep their fp32 input and, if trained, output. LoRA adds r elements a
    matrix, its dropout an fp32 mask of each input. Autocast keeps a cast copy of each matrix.
    """
    inputs, outputs = (sum(side) for side in zip(*shapes.layer.values(), strict=True))
    more = shapes.layer["down_proj"][0] + shapes.layer["o_proj"][0] + len(MATRICES) * lora.rank
    norms = FP32 * shapes.norm_width * (1 if lora.rank else 2)
    masks = FP32 * inputs if lora.rank and lora.dropout else 0
    casts = 0
    if compute < shapes.frozen(lora, compute) or lora.base == "nf4":
        casts = compute * sum(i * o for i, o in shapes.layer.values())
    return tokens * (compute * (inputs + outputs + more) + norms + masks) + casts


def head_logits(
    shapes: ModelShapes, settings: Model, tokens: int, *, compute: int, gradient: bool, cuda: bool
) -> int:
    """A chunk's logits in fp32, and intermediates of four blocks, six for the gradient.

    With bf16 operands also their `gradient`, and the head's weight unless it is in bf16. The CPU has no such
    product and multiplies fp32 copies.
    """
    chunk = min(settings.head_chunk_tokens, tokens)
    logits, matrix = shapes.vocabulary * chunk, shapes.vocabulary * shapes.width
    block = shapes.vocabulary * min(chunk, block_tokens(shapes.vocabulary))
    blocks = (6 if gradient else 4) * FP32 * block
    if compute == FP32:
        return FP32 * logits + blocks
    grad_logits = logits if gradient else 0
    copies = 0 if cuda else FP32 * (matrix + grad_logits)
    weight = compute * matrix if shapes.frozen(settings.lora, compute) > compute else 0
    return FP32 * logits + weight + max(blocks, compute * grad_logits + copies)


def update_activations(
    shapes: ModelShapes, settings: Model, tokens: int, *, compute: int, cuda: bool = False
) -> int:
    """Forward and backward of one micro-batch: what all layers keep, and the larger of head and layer.

    With gradient checkpointing a layer keeps its fp32 input, and backward computes one layer again
    (https://arxiv.org/abs/1604.06174). A trained head holds a second gradient, 4 V D, until backward
    adds it; to the end if it is tied to the embedding.
    """
    full, mlp = not settings.lora.rank, tokens * shapes.layer["down_proj"][0]
    stream = shapes.frozen(settings.lora, compute) * shapes.width * tokens
    kept = layer = layer_activations(shapes, settings.lora, tokens, compute=compute)
    head_gradient = FP32 * shapes.vocabulary * shapes.width if full else 0
    head = head_logits(shapes, settings, tokens, compute=compute, gradient=True, cuda=cuda)
    head += 5 * stream + head_gradient + 8 * tokens  # and the positions of the response tokens
    backward = 3 * stream + (head_gradient if shapes.tied else 0)
    backward += mlp * (2 * compute if full else 3 * FP32 if settings.lora.dropout else 2 * FP32)
    if settings.gradient_checkpointing:
        kept, backward = stream, backward + layer
    return shapes.layers * kept + max(head, backward)


def forward_activations(
    shapes: ModelShapes, settings: Model, tokens: int, *, compute: int, cuda: bool = False
) -> int:
    """Without gradient: the larger of one layer's MLP, 4 c I + 20 D a token, and the head."""
    layer = tokens * (4 * compute * shapes.layer["down_proj"][0] + 20 * shapes.width)
    head = head_logits(shapes, settings, tokens, compute=compute, gradient=False, cuda=cuda)
    return max(layer, head + 2 * FP32 * shapes.width * tokens)


def optimizer_workspace(shapes: ModelShapes, *, cuda: bool) -> int:
    """AdamW's roots of second moments: of all weights at once on CUDA, else three of the largest."""
    return FP32 * (shapes.trained if cuda else 3 * shapes.largest_trained)


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


def gathered_bytes(shapes: ModelShapes, lora: LoRA, compute: int) -> int:
    """Whole weights under FSDP: embedding and head, and two layers of which one is computing.

    Of the trained ones the gradients, too, until their sum over ranks is split again.
    """
    outside = shapes.vocabulary * shapes.width * (1 if shapes.tied else 2)
    layers = 2 * sum(inputs * outputs for inputs, outputs in shapes.layer.values())
    frozen = shapes.frozen(lora, compute)
    return (outside + layers) * (frozen if lora.rank else 2 * FP32)


def longest_row(config: Config) -> int:
    return config.prompts.max_prompt_tokens + config.rollouts.max_response_tokens


def rollout_rows(config: Config, devices: Devices) -> int:
    rollouts = config.rollouts
    return rollouts.prompts_per_step // devices.count * rollouts.completions_per_prompt


def minibatch_rows(config: Config, devices: Devices) -> int:
    """Of one device, at most: a knapsack may give the prompts of one minibatch more than the others."""
    allocation, size = config.rollouts.allocation, config.rollouts.completions_per_prompt
    largest = allocation.maximum if allocation.method == "knapsack" else size
    prompts = config.optimizer.prompts_per_minibatch // devices.count
    return min(prompts * largest, rollout_rows(config, devices))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Of one device; all devices hold the same. `items`: name, bytes, phases that hold them.

    `weights`: bytes of the whole policy, which each process loads before it may keep a share.
    `engine` is None for an engine other than ceeh's, which is then not in the plan.
    """

    devices: Devices
    weights: int
    items: list[tuple[str, int, tuple[str, ...]]]
    engine: EngineMemory | None

    def held(self, phase: str) -> int:
        return sum(size for _, size, phases in self.items if phase in phases)

    @property
    def peak(self) -> int:
        return max(self.held(phase) for phase in PHASES)

    @property
    def one_sequence_fits(self) -> bool:
        """vLLM does not start with a KV cache smaller than one full-length sequence."""
        return self.engine is None or self.engine.kv_tokens >= self.engine.longest

    @property
    def fits(self) -> bool:
        return self.peak <= self.devices.usable and self.one_sequence_fits


def make_plan(config: Config, shapes: ModelShapes, devices: Devices) -> Plan:
    """Raises ConfigError for settings whose memory cannot be planned."""
    settings, optimizer, evaluation = config.model, config.optimizer, config.evaluation
    if settings.attention == "eager":
        raise ConfigError(
            "model.attention: eager keeps a score for each pair of tokens and has no memory plan; "
            "use sdpa or flash_attention_2"
        )
    cuda, several = devices.kind == "cuda", devices.count > 1
    compute = 2 if resolve_precision(config.hardware, devices.kind) == "bf16-mixed" else FP32
    engine = engine_memory(config, shapes, devices, compute=compute)
    # Rows of a batch and tokens of a micro-batch, in training and in evaluation.
    longest, budget = longest_row(config), optimizer.tokens_per_microbatch
    rows = rollout_rows(config, devices)
    minibatch = minibatch_rows(config, devices)
    questions = min(-(-evaluation.questions // devices.count), 2 * config.rollouts.prompts_per_step)
    held_out = questions * (evaluation.samples + evaluation.split_samples)
    tokens, held_out_tokens = min(budget, minibatch * longest), min(budget, held_out * longest)

    sharded = config.hardware.strategy == "fsdp"
    shards = devices.count if sharded else 1
    eight_bit = optimizer.moments == "8bit"
    work = max(
        update_activations(shapes, settings, tokens, compute=compute, cuda=cuda),
        0 if eight_bit else optimizer_workspace(shapes, cuda=cuda) // shards,
    )
    forward = forward_activations(shapes, settings, held_out_tokens, compute=compute, cuda=cuda)
    reference = config.objective.kl_coefficient > 0 and settings.lora.rank == 0
    gathered = sharded * several * gathered_bytes(shapes, settings.lora, compute)
    weights = shapes.policy_bytes(settings.lora, compute)
    items: list[tuple[str, int, tuple[str, ...]]] = [
        ("policy weights", weights // shards, PHASES),
        ("gathered weights", gathered, PHASES),
        ("reference policy", FP32 * shapes.parameters * reference // shards, PHASES),
        # An adapter's are whole until the last micro-batch.
        ("gradients", FP32 * shapes.trained // (1 if settings.lora.rank else shards), PHASES),
        ("gradient buckets", FP32 * shapes.trained * (several and not sharded), PHASES),
        (
            "AdamW moments",
            int(2 * shapes.trained * (EIGHT_BIT if eight_bit else FP32)) // shards,
            PHASES,
        ),
        ("process", PROCESS[devices.kind] + NCCL * (cuda and several), PHASES),
        ("token batch", 17 * max(rows, held_out) * longest, (UPDATE, EVALUATION)),
        ("activations or AdamW", work, (UPDATE,)),
        ("held-out forward", forward, (EVALUATION,)),
    ]
    if engine:
        awake = (ROLLOUTS, EVALUATION) if engine.sleep else PHASES
        items.append(("engine weights", engine.weights, awake))
        items.append(("engine KV cache", engine.kv_cache, awake))
        items.append(("engine at work", engine.work, (ROLLOUTS,)))
    held = [item for item in items if item[1]]
    return Plan(devices=devices, weights=weights, items=held, engine=engine)
