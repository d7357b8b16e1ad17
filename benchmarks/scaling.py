"""python -m benchmarks.scaling: memory, traffic and seconds of a rollout step, 1.5B to 70B, 1 to 512 GPUs.

Arithmetic on the project's memory plan, not a measurement; `--write` puts the tables into docs/scaling.md.
`--measure` shards a small model over two gloo ranks and counts the bytes that the arithmetic predicts, best
alone on a loopback device:
  unshare --net sh -c "ip link set lo up; python -m benchmarks.scaling --measure"
"""

import argparse
import re
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen2ForCausalLM

from benchmarks.workload import random_config
from ceeh.config.settings import LoRA, Model
from ceeh.memory.activations import optimizer_workspace, update_activations
from ceeh.memory.devices import GIB, USABLE
from ceeh.memory.plan import NCCL, PROCESS
from ceeh.memory.shapes import FP32, ModelShapes, gathered_bytes, read_shapes
from ceeh.modules.flops import PEAK_TFLOPS

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
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


def qwen2(
    width: int, layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int = 152_064
) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )


MODELS: dict[str, tuple[PreTrainedConfig, int]] = {
    "1.5B": (qwen2(1536, 28, 12, 2, 8960, vocabulary=151_936), 1),
    "7B": (qwen2(3584, 28, 28, 4, 18_944), 1),
    "32B": (qwen2(5120, 64, 40, 8, 27_648), 2),
    "70B": (
        LlamaConfig(
            vocab_size=128_256,
            hidden_size=8192,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
            intermediate_size=28_672,
            dtype=torch.bfloat16,
        ),
        4,
    ),
}
"""DeepSeek-R1-Distill-Qwen-1.5B, Qwen2.5 of 7B and 32B, Llama 3.1 of 70B, with the GPUs of one engine."""
KINDS = {"LoRA 32": LoRA(rank=32), "full": LoRA()}


@cache
def shapes_of(model: str, kind: str) -> ModelShapes:
    with tempfile.TemporaryDirectory() as folder:
        MODELS[model][0].save_pretrained(folder)
        return read_shapes(Model(lora=KINDS[kind]), folder)


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


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gib(size: float) -> str:
    return f"{size / GIB:,.1f}"


def gb(size: float) -> str:
    return f"{size / 1e9:,.0f}"


def steps() -> list[Step]:
    return [Step(model, kind, gpus) for model in MODELS for kind in KINDS for gpus in GPUS]


def memory_table() -> str:
    rows = []
    for step in steps():
        rows.append(
            [
                step.model,
                step.kind,
                str(step.gpus),
                gib(step.weights),
                gib(step.reference),
                gib(step.moments),
                gib(step.gathered),
                gib(step.gradients),
                gib(step.work),
                gib(step.update_memory)
                + ("" if step.update_memory <= USABLE * 80 * GIB else ", **no**"),
                f"{gib(step.cache)}, {step.sequences}" if step.cache else "**none**",
            ]
        )
    head = "model,trained,GPUs,weights,reference,moments,gathered,gradients,work,update"
    return markdown([*head.split(","), "KV cache, sequences"], rows)


def traffic_table() -> str:
    rows = [
        [
            step.model,
            step.kind,
            str(step.gpus),
            str(step.microbatches),
            gb(step.weights_gathered),
            gb(step.gradients_reduced),
            gb(step.pushed),
        ]
        for step in steps()
        if step.gpus > 1
    ]
    head = "model,trained,GPUs,micro-batches,weights gathered,gradients joined,push"
    return markdown(head.split(","), rows)


def time_table() -> str:
    rows = []
    for step in steps():
        if not step.fits:
            continue
        generate, longest, waiting = step.generation()
        update = max(step.computing, step.update_traffic)
        total = generate + update + step.push
        rows.append(
            [
                step.model,
                step.kind,
                str(step.gpus),
                f"{generate:,.0f}",
                f"{longest:,.0f}",
                f"{waiting:.0%}",
                f"{step.computing:,.0f}",
                f"{step.update_traffic:,.1f}",
                f"{step.push:.1f}",
                f"{total:,.0f}",
                f"{PROMPTS * GROUP * (PROMPT + MEAN) / total / step.gpus:,.0f}",
            ]
        )
    head = "model,trained,GPUs,generate,its longest,waiting,update: products,traffic,push,step"
    return markdown([*head.split(","), "tokens/s per GPU"], rows)


TABLES = {"memory": memory_table, "traffic": traffic_table, "time": time_table}


def write(page: Path = PAGE) -> None:
    text = page.read_text()
    for name, table in TABLES.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert place.search(text), f"{page} has no place for the table '{name}'"
        text = place.sub(lambda found, table=table: found[1] + table() + "\n" + found[2], text)
    page.write_text(text)


def loopback_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.split()[0] == "lo:")


@dataclass(frozen=True)
class Traffic:
    """Of one optimizer step over all ranks: bytes that were predicted and counted, and seconds."""

    predicted: float
    counted: float
    seconds: float


Kinds = Sequence[tuple[int, bool]]
"""Micro-batches of an optimizer step, and whether each of them reduces its gradients."""


def shard_and_step(rank: int, port: int, kinds: Kinds, found: "mp.SimpleQueue") -> None:
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    model: Any = Qwen2ForCausalLM(random_config("balanced"))
    size = FP32 * sum(weight.numel() for weight in model.parameters())
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    ids = torch.randint(2, 2048, (2, 16))

    def step(micro: int, every: bool) -> None:
        for index in range(micro):
            model.set_requires_gradient_sync(every or index == micro - 1)
            model(input_ids=ids).logits.sum().backward()
        model.zero_grad()

    step(1, True)
    for micro, every in kinds:
        dist.barrier()
        before, begin = loopback_bytes(), time.perf_counter()
        step(micro, every)
        dist.barrier()
        counted, seconds = loopback_bytes() - before, time.perf_counter() - begin
        if rank == 0:
            # Each rank receives the other's half: n (n - 1) / n of the whole over both. gloo scatters a
            # reduction by reducing everything on every rank, which moves twice as much.
            predicted = size * (2 * micro + 2 * (micro if every else 1))
            found.put(Traffic(predicted, counted, seconds))
    dist.barrier()
    dist.destroy_process_group()


def measure(kinds: Kinds) -> list[Traffic]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = mp.get_context("spawn").SimpleQueue()
    spawn(shard_and_step, args=(port, kinds, found), nprocs=2)
    return [found.get() for _ in kinds]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help=f"the tables into {PAGE.name}")
    parser.add_argument("--measure", action="store_true", help="two ranks on this machine")
    given = parser.parse_args(arguments)
    if given.measure:
        kinds = [(micro, every) for micro in (1, 2, 4) for every in (False, True)]
        for (micro, every), seen in zip(kinds, measure(kinds), strict=True):
            print(
                f"{micro} micro-batches, gradients reduced {'each' if every else 'once'}: predicted "
                f"{seen.predicted / 1e6:.2f} MB, counted {seen.counted / 1e6:.2f} MB, "
                f"{seen.seconds:.3f} s"
            )
    elif given.write:
        write()
    else:
        print("\n\n".join(f"{name}\n{table()}" for name, table in TABLES.items()))


if __name__ == "__main__":
    main()
