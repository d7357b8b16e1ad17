"""The plan: the items that a device holds in each phase of a step, and whether they fit."""

from dataclasses import dataclass

from ceeh.config.hardware import resolve_precision
from ceeh.config.settings import Config
from ceeh.errors import ConfigError
from ceeh.memory.activations import forward_activations, optimizer_workspace, update_activations
from ceeh.memory.devices import GIB, Devices
from ceeh.memory.engine import EngineMemory, engine_memory
from ceeh.memory.rows import longest_row, minibatch_rows, rollout_rows
from ceeh.memory.shapes import FP32, ModelShapes, gathered_bytes

EIGHT_BIT = 1 + FP32 / 256
"""Bytes of an 8-bit moment: one, and an fp32 scale for each block of 256."""
PROCESS, NCCL = {"cpu": int(1.5 * GIB), "cuda": int(1.5 * GIB)}, GIB
"""CPU: Python, torch and vLLM, measured. CUDA: a context of 0.33 GiB (vLLM issue 14452) and graphs of 0.2 to
0.6 GiB (vLLM pulls 11349, 5515), which sleep does not release. NCCL: 0.94 GiB (vLLM pull 11743)."""
PHASES = ROLLOUTS, UPDATE, EVALUATION = "rollouts", "update", "evaluation"


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
