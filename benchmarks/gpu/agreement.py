"""Engine against trainer at 1.5B shapes, step by step: the open fault of docs/gpu.md."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.agreement import agreement
from benchmarks.gpu.measured import CUDA, DEVICE, Row, row
from benchmarks.workload import random_model
from ceeh.config.settings import Model
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.modules.policy import Policy


def measure_agreement(tiny: bool) -> Iterator[Row]:
    """Eager, then with graphs and sleep mode: `benchmarks.agreement` takes apart what jumps."""
    shape, vocabulary = ("tiny", 2000) if tiny else ("qwen2-1.5b", 151_936)
    steps: tuple[dict[str, bool], ...] = ({}, {"graphs": True, "sleep": True})
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder), shape, vocabulary=vocabulary, dtype=torch.bfloat16)
        policy = Policy(Model(), folder, temperature=1.0, keep_reference=False)
        policy = policy.to(DEVICE).eval()
        for step in steps if CUDA else steps[:1]:
            name = " and ".join(step) or "eager"
            options = {"enforce_eager": not step.get("graphs"), "max_num_seqs": 16}
            sleep = step.get("sleep", False)
            with VLLMEngine(folder, 256, kv_cache_gib=0.5, sleep=sleep, options=options) as engine:
                for weights in ("disk", "push", "push after sleep" if sleep else ""):
                    if weights.startswith("push"):
                        if weights == "push after sleep":
                            engine.sleep()
                        engine.wake()
                        engine.load_weights(policy.engine_weights(), policy_version=0)
                    if weights:
                        found = agreement(policy, engine, DEVICE)
                        others = ", ".join(
                            f"{field} {value:.2g}" for field, value in found._asdict().items()
                        )
                        yield row(f"{shape}, {name}, {weights}", found.engine_bf16, "nats", others)
