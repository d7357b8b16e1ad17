"""The items of a plan: what is held, in which phases of a run, by which formula."""

from dataclasses import dataclass

from ceeh.config.settings import Config
from ceeh.memory import formulas
from ceeh.memory.devices import GIB, Devices
from ceeh.memory.engine import EngineSettings
from ceeh.memory.shapes import ModelShapes

ROLLOUTS, UPDATE, STEP, EVALUATION = "rollouts", "update", "optimizer step", "evaluation"
PHASES = (ROLLOUTS, UPDATE, STEP, EVALUATION)
AWAKE, TRAINING = (ROLLOUTS, EVALUATION), (UPDATE, STEP)

CPU_PROCESS = int(1.5 * GIB)
"""Python, torch and vLLM with their code and pools. Measured: training the starter, with a KV cache
of 0.25 GiB, took 2.06 GiB at most, of which the other items plan 0.62."""
CUDA_CONTEXT = int(0.5 * GIB)
"""Context, kernels and library workspaces, outside torch's allocator. vLLM logs 0.33 GiB on one
device of 32 GB: https://github.com/vllm-project/vllm/issues/14452."""
CUDA_CONTEXT_NCCL = int(1.3 * GIB)
"""The same with NCCL's buffers: vLLM logs 1.27 GiB, https://github.com/vllm-project/vllm/pull/11743."""
CUDA_GRAPHS = GIB
"""vLLM logs 0.2 GiB for 1B parameters (https://github.com/vllm-project/vllm/pull/11349), 0.6 GiB
for 70B (https://github.com/vllm-project/vllm/pull/5515); sleep does not give them back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """`size` bytes that are held in `phases`; `words` are their formula with its numbers."""

    name: str
    size: int
    phases: tuple[str, ...]
    words: str


def weights(config: Config, shapes: ModelShapes, devices: Devices) -> list[Item]:
    """What the trainer holds in every phase. Gradients are cleared when the next update begins."""
    trained = f"{count(shapes.trainable)} trained parameters"
    reference = formulas.reference_copy(shapes, kl_coefficient=config.objective.kl_coefficient)
    frozen = ", the frozen ones too" if shapes.rank else ""
    return [
        Item(
            name="policy weights",
            size=formulas.master_weights(shapes),
            phases=PHASES,
            words=f"{count(shapes.parameters)} parameters x 4 bytes{frozen}",
        ),
        Item(
            name="reference policy",
            size=reference,
            phases=PHASES,
            words="the weights once more, for objective.kl_coefficient without LoRA",
        ),
        Item(
            name="gradients",
            size=formulas.gradients(shapes),
            phases=PHASES,
            words=f"{trained} x 4 bytes",
        ),
        Item(
            name="AdamW moments",
            size=formulas.adamw_states(shapes),
            phases=PHASES,
            words=f"{trained} x 8 bytes",
        ),
        Item(
            name="gradient buckets",
            size=formulas.ddp_buckets(shapes, processes=devices.count),
            phases=PHASES,
            words=f"{trained} x 4 bytes, to reduce over {devices.count} processes",
        ),
    ]


def overhead(devices: Devices, engine: EngineSettings | None) -> list[Item]:
    """What is there whatever the model."""
    if devices.kind == "cpu":
        return [
            Item(
                name="process",
                size=CPU_PROCESS,
                phases=PHASES,
                words="Python, torch and vLLM, measured",
            )
        ]
    return [
        Item(
            name="CUDA context",
            size=CUDA_CONTEXT_NCCL if devices.count > 1 else CUDA_CONTEXT,
            phases=PHASES,
            words="kernels, libraries" + (", NCCL" if devices.count > 1 else ""),
        ),
        Item(
            name="CUDA graphs",
            size=CUDA_GRAPHS if engine and engine.graphs else 0,
            phases=PHASES,
            words="the engine's; 0 with engine.init_args.options.enforce_eager=true",
        ),
    ]


def engine_items(shapes: ModelShapes, devices: Devices, engine: EngineSettings) -> list[Item]:
    """The engine, during training too unless it sleeps then."""
    phases = AWAKE if engine.sleep else PHASES
    asleep = ", dropped while training" if engine.sleep else ""
    dtype = engine.dtype
    work = formulas.engine_layer(shapes, batched_tokens=engine.batched_tokens, dtype=dtype)
    sampler = formulas.engine_sampler(shapes, sequences=engine.sequences, dtype=dtype)
    push = formulas.push_workspace(shapes, dtype=dtype)
    per_token = formulas.kv_bytes_per_token(shapes, dtype=dtype)
    return [
        Item(
            name="engine weights",
            size=formulas.engine_weights(shapes, dtype=dtype, cuda=devices.kind == "cuda"),
            phases=phases,
            words=f"its own copy x {dtype} bytes{asleep}",
        ),
        Item(
            name="engine KV cache",
            size=engine.kv_cache,
            phases=phases,
            words=f"engine.init_args.kv_cache_gib; {per_token:,} bytes per token",
        ),
        Item(
            name="engine at work",
            size=max(work, sampler, push),
            phases=(ROLLOUTS,),
            words=f"layer {work / GIB:.2f}, sampler {sampler / GIB:.2f} ({engine.sequences:,} x "
            f"{shapes.vocabulary:,} logits), weight push {push / GIB:.2f}: the largest",
        ),
    ]


def update_items(
    config: Config, shapes: ModelShapes, devices: Devices, *, compute: int
) -> list[Item]:
    """One micro-batch at its budget, with the step's batch; then the optimizer's own workspace.

    The reference pass comes before the policy's own and needs less.
    """
    checkpointing = config.model.gradient_checkpointing
    rollouts, longest = config.rollouts, longest_row(config)
    rows = rollouts.prompts_per_step // devices.count * rollouts.completions_per_prompt
    tokens = microbatch_tokens(config, config.optimizer.prompts_per_minibatch // devices.count)
    chunk = config.model.head_chunk_tokens
    head = formulas.head_kept(shapes, tokens) + formulas.head_workspace(
        shapes, tokens, chunk_tokens=chunk
    )
    layer = formulas.backward_workspace(
        shapes, tokens, compute=compute, gradient_checkpointing=checkpointing
    )
    batch = formulas.rollout_batch(
        rows, longest, recomputed_logprobs=config.objective.old_logprobs == "trainer"
    )
    each = "4 bytes x width" if checkpointing else "its backward pass's inputs"
    return [
        Item(
            name="rollout batch",
            size=batch,
            phases=TRAINING,
            words=f"{rows:,} rows of at most {longest:,} tokens",
        ),
        Item(
            name="layers' activations",
            size=formulas.layers_kept(
                shapes, tokens, compute=compute, gradient_checkpointing=checkpointing
            ),
            phases=(UPDATE,),
            words=f"{shapes.layers} layers x {tokens:,} tokens x {each}",
        ),
        Item(
            name="forward, backward",
            size=max(head, layer),
            phases=(UPDATE,),
            words=f"one layer {layer / GIB:.2f}, head {head / GIB:.2f} ({min(chunk, tokens):,} x "
            f"{shapes.vocabulary:,} logits): the larger",
        ),
        Item(
            name="AdamW at work",
            size=formulas.adamw_workspace(shapes, cuda=devices.kind == "cuda"),
            phases=(STEP,),
            words="roots of the second moments",
        ),
    ]


def evaluation_items(
    config: Config, shapes: ModelShapes, devices: Devices, *, compute: int
) -> list[Item]:
    """The policy reads held-out responses while the engine stays awake."""
    evaluation, longest = config.evaluation, longest_row(config)
    questions = min(-(-evaluation.questions // devices.count), 2 * config.rollouts.prompts_per_step)
    rows = questions * (evaluation.samples + evaluation.split_samples)
    tokens = min(config.optimizer.tokens_per_microbatch, rows * longest)
    return [
        Item(
            name="held-out batch",
            size=formulas.rollout_batch(rows, longest, recomputed_logprobs=False),
            phases=(EVALUATION,),
            words=f"{rows:,} rows of at most {longest:,} tokens",
        ),
        Item(
            name="forward alone",
            size=formulas.forward_workspace(
                shapes, tokens, compute=compute, chunk_tokens=config.model.head_chunk_tokens
            ),
            phases=(EVALUATION,),
            words=f"{tokens:,} tokens through one layer, or the head",
        ),
    ]


def longest_row(config: Config) -> int:
    return config.prompts.max_prompt_tokens + config.rollouts.max_response_tokens


def microbatch_tokens(config: Config, prompts: int) -> int:
    """Tokens of the largest micro-batch: the budget, or all rows of the mini-batch if they are fewer."""
    rows = prompts * config.rollouts.completions_per_prompt
    return min(config.optimizer.tokens_per_microbatch, rows * longest_row(config))


def count(number: int) -> str:
    """7,615,616,512 as `7.62 G`."""
    for letter, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return str(number)
