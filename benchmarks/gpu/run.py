"""A whole `ceeh.fit` of 1.5B parameters: seconds of a step and their parts, MFU, the canary, memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.measured import BF16, CUDA, Row, memory_in_use, row
from benchmarks.workload import random_model
from ceeh.config.settings import load
from ceeh.fit import fit
from ceeh.run.metrics_file import read_rows

STEPS = 3
"""The first one compiles."""
SIZES = {
    False: ("qwen2-1.5b", "model.lora.rank=32", 16, 12, 1024),
    True: ("tiny", "model.lora.rank=4", 2, 2, 8),
}
"""By `tiny`: model, adapter, prompts of a step, completions of each, and their tokens at most."""


def measure_run(tiny: bool) -> Iterator[Row]:
    size, adapter, prompts, completions, tokens = SIZES[tiny]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_model(folder / "model", size, dtype=BF16 if CUDA else torch.float32)
        files = ["configs/ceeh.yaml", *["configs/hardware/1x80gb.yaml"] * CUDA]
        config = load(
            files,
            [
                f"model.path={folder / 'model'}",
                f"output={folder / 'runs'}",
                adapter,
                f"rollouts.steps={STEPS}",
                f"rollouts.prompts_per_step={prompts}",
                f"rollouts.completions_per_prompt={completions}",
                f"rollouts.max_response_tokens={tokens}",
                f"optimizer.prompts_per_minibatch={prompts}",
                "prompts.held_out.init_args.questions=4",
                "evaluation={samples: 2, split_samples: 1, bootstrap_draws: 100}",
                "tracking.mlflow=false",
            ],
        )
        with memory_in_use() as peak:
            run = fit(config)
        measured = [line for line in read_rows(run) if "time/step" in line]
    last = measured[-1]
    sampled = int(last["rollout/tokens_total"])
    parts = ", ".join(
        f"{name} {last[f'time/{name}']:.2f}" for name in ("generate", "update", "push")
    )
    yield row(f"{size}, step of {sampled} tokens", last["time/step"], "s", parts)
    yield row(f"{size}, generation", last["rollout/tokens_per_second"], "tokens/s")
    mfu = last.get("optimizer/mfu")
    share = "" if mfu is None else f"MFU {mfu:.1%}, recomputation not counted"
    yield row(f"{size}, update", last["optimizer/tokens_per_second"], "tokens/s", share)
    largest = max(line["engine/canary_difference"] for line in measured)
    yield row(f"{size}, canary, largest of {STEPS} steps", largest, "nats")
    if peak[0]:
        yield row(f"{size}, memory of the GPU in use", peak[0] / 2**30, "GiB", "at most")
