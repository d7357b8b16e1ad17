"""Memory, traffic and seconds of the paper's rollout step, and the hardware and lengths assumed."""

from dataclasses import dataclass

import numpy as np

from benchmarks.scaling.models import KINDS, MODELS, shapes_of
from ceeh.config.settings import LoRA, Model
from ceeh.memory.activations import optimizer_workspace, update_activations
from ceeh.memory.devices import GIB, USABLE
from ceeh.memory.plan import NCCL, PROCESS
from ceeh.memory.shapes import FP32, ModelShapes, gathered_bytes
from ceeh.modules.flops import PEAK_TFLOPS

GPUS = (1, 8, 64, 512)
BF16 = 2

# An H100 SXM of 80 GB: NVIDIA's data sheets.
PEAK = 1e12 * PEAK_TFLOPS["H100"]
HBM = 3.35e12
NVLINK, NETWORK = 450e9, 400e9
"""Bytes/s each way of a GPU within its node of 8, and of a node with eight links of 400 Gbit/s."""
# Assumptions.
MFU = 0.40
"""Of the update, recomputation counted: 38 to 43 % on 8,192 to 16,384 H100 (arXiv 2407.21783, table 4)."""
LINK_SHARE, HBM_SHARE = 0.8, 0.6
DECODE_OVERHEAD = 0.003
"""Seconds of scheduler, sampler and launches in a decoding step."""

PROMPTS, GROUP, LONGEST_PROMPT, LONGEST = 512, 12, 2048, 20480
"""The paper's rollout step."""
PROMPT, MEAN, SPREAD = 200, 4000, 0.8
"""Tokens of a prompt; mean and spread (of the logarithm) of a response: assumptions."""
MICROBATCH = LONGEST_PROMPT + LONGEST
ENGINE_WORK = 4 * GIB
MAX_SEQUENCES = 1024


@dataclass(frozen=True)
class Step:
    """A rollout step on `gpus`, in seconds and bytes: those that one GPU holds, or receives from others."""

    model: str
    kind: str
    gpus: int

    @property
    def shapes(self) -> ModelShapes:
        return shapes_of(self.model, self.kind)

    @property
    def lora(self) -> LoRA:
        return KINDS[self.kind]

    @property
    def tensor_parallel(self) -> int:
        return min(MODELS[self.model][1], self.gpus)

    # Memory.

    @property
    def weights(self) -> float:
        """As the policy holds them, frozen ones in bf16 under LoRA; a shard of them."""
        return self.shapes.policy_bytes(self.lora, BF16) / self.gpus

    @property
    def moments(self) -> float:
        return 2 * FP32 * self.shapes.trained / self.gpus

    @property
    def reference(self) -> float:
        """The starting policy in fp32, for the KL term; with LoRA the model without its adapter."""
        return 0 if self.lora.rank else FP32 * self.shapes.parameters / self.gpus

    @property
    def gathered(self) -> float:
        return 0 if self.gpus == 1 else gathered_bytes(self.shapes, self.lora, BF16)

    @property
    def gradients(self) -> float:
        """An adapter's whole until the last micro-batch; those of all weights joined after each."""
        return FP32 * self.shapes.trained / (1 if self.lora.rank else self.gpus)

    @property
    def work(self) -> float:
        """The tokens, and activations or else AdamW's workspace."""
        settings = Model(lora=self.lora, gradient_checkpointing=True)
        tokens = 17 * PROMPTS * GROUP * (LONGEST_PROMPT + LONGEST) / self.gpus
        update = update_activations(self.shapes, settings, MICROBATCH, compute=BF16, cuda=True)
        return tokens + max(update, optimizer_workspace(self.shapes, cuda=True) / self.gpus)

    @property
    def process(self) -> float:
        return PROCESS["cuda"] + NCCL * (self.gpus > 1)

    @property
    def update_memory(self) -> float:
        """The engine sleeps."""
        held = self.weights + self.reference + self.moments + self.gathered + self.gradients
        return held + self.work + self.process

    @property
    def engine_weights(self) -> float:
        base = self.shapes.parameters - (self.shapes.trained if self.lora.rank else 0)
        return BF16 * base / self.tensor_parallel

    @property
    def cache(self) -> float:
        """What rollouts leave to the KV cache."""
        held = self.weights + self.reference + self.moments + self.gradients
        free = USABLE * 80 * GIB - held - self.engine_weights - self.process - ENGINE_WORK
        return max(0.0, free)

    @property
    def fits(self) -> bool:
        return self.update_memory <= USABLE * 80 * GIB and self.sequences > 0

    # Traffic.

    @property
    def share(self) -> float:
        """Of a collective's bytes that come from other GPUs."""
        return (self.gpus - 1) / self.gpus

    @property
    def tokens(self) -> float:
        return PROMPTS * GROUP * (PROMPT + MEAN) / self.gpus

    @property
    def microbatches(self) -> int:
        return int(-(-self.tokens // MICROBATCH))

    @property
    def weights_gathered(self) -> float:
        """For the forward, the backward and the reference's forward pass of each micro-batch."""
        whole = self.shapes.policy_bytes(self.lora, BF16)
        return 3 * self.microbatches * whole * self.share

    @property
    def gradients_reduced(self) -> float:
        """An adapter's once an optimizer step, those of all weights after each micro-batch."""
        times = self.optimizer_steps if self.lora.rank else self.microbatches
        return times * FP32 * self.shapes.trained * self.share

    @property
    def optimizer_steps(self) -> int:
        """Of 32 prompts in the paper; each rank needs one."""
        return PROMPTS // max(32, self.gpus)

    @property
    def pushed(self) -> float:
        """Each tensor whole on each rank, one at a time."""
        return self.shapes.policy_bytes(self.lora, BF16) * self.share

    # Time.

    @property
    def link(self) -> float:
        return LINK_SHARE * (NVLINK if self.gpus <= 8 else NETWORK)

    @property
    def sequences(self) -> int:
        """That one engine holds in its cache."""
        per_token = 2 * self.shapes.layers * self.shapes.layer["k_proj"][1] * BF16
        held = self.cache * self.tensor_parallel / per_token / (PROMPT + MEAN)
        return min(MAX_SEQUENCES, int(held))

    def decoding(self, sequences: float) -> float:
        """Seconds for one token of each: weights and half-filled caches read, or the products."""
        shapes = self.shapes
        per_token = 2 * shapes.layers * shapes.layer["k_proj"][1] * BF16
        weights = self.engine_weights * self.tensor_parallel
        read = weights + sequences * per_token * (PROMPT + MEAN / 2)
        computed = 2 * shapes.parameters * sequences / (PEAK * MFU)
        return max(read / (HBM * HBM_SHARE), computed) / self.tensor_parallel + DECODE_OVERHEAD

    def generation(self) -> tuple[float, float, float]:
        """Of the slowest engine; of its longest response alone; the mean engine's wait as a share.

        Lengths are log-normal, cut at the limit, those of a question independent. Each engine has the
        same number of questions.
        """
        engines = self.gpus // self.tensor_parallel
        draw = np.random.default_rng(0).lognormal(
            np.log(MEAN) - SPREAD**2 / 2, SPREAD, PROMPTS * GROUP
        )
        of_engine = np.array_split(np.minimum(draw, LONGEST), engines)
        together = min(self.sequences, len(of_engine[0]))
        full, last = self.decoding(together), self.decoding(1)
        longest = np.array([lengths.max() * last for lengths in of_engine])
        times = np.maximum([lengths.sum() * full / together for lengths in of_engine], longest)
        slowest = int(times.argmax())
        return float(times[slowest]), float(longest[slowest]), 1 - float(times.mean() / times.max())

    @property
    def computing(self) -> float:
        """FLOPs as in ceeh/modules/flops.py with a reference, and a second forward pass for checkpointing."""
        shapes = self.shapes
        used = shapes.parameters - shapes.vocabulary * shapes.width
        trained = shapes.trained if self.lora.rank else used
        squares = np.exp(SPREAD**2) * MEAN**2  # mean square of a log-normal length
        attention = 5 * 2 * shapes.layers * shapes.layer["q_proj"][1]
        per_row = (8 * used + 2 * trained) * (PROMPT + MEAN) + attention * squares
        return PROMPTS * GROUP * per_row / self.gpus / (PEAK * MFU)

    @property
    def update_traffic(self) -> float:
        return (self.weights_gathered + self.gradients_reduced) / self.link

    @property
    def push(self) -> float:
        """The gather, and three copies in the engine: reload buffer, fused matrix, weight."""
        return self.pushed / self.link + 3 * self.engine_weights / (HBM * HBM_SHARE)
