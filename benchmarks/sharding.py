"""python -m benchmarks.sharding: peak memory of each of two processes, sharded (FSDP) against copies (DDP).

Both make the same updates; equal loss and gradient norm show it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Measurement, report, share
from benchmarks.memory import MIB
from benchmarks.sharded_worker import JOINED_EACH
from benchmarks.update import SAME
from benchmarks.worker import ROOT
from benchmarks.workload import SIZES, random_model

LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
STRATEGIES = ("ddp", "fsdp", JOINED_EACH)
Answers = list[dict[str, float]]


def run(job: dict[str, Any], strategy: str, lora_rank: int) -> Answers:
    """What both processes measured."""
    folder = Path(job["folder"])
    file = folder / "job.json"
    file.write_text(json.dumps(job | {"strategy": strategy, "lora_rank": lora_rank}))
    subprocess.run(
        [sys.executable, *LAUNCH, "-m", "benchmarks.sharded_worker", str(file)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def check_same_work(found: dict[str, Answers]) -> None:
    """Raises RuntimeError if loss or gradient norm of the first step differ between strategies or ranks."""
    for name in ("loss", "grad_norm"):
        values = [answer[name] for answers in found.values() for answer in answers]
        if max(values) - min(values) > SAME * max(map(abs, values)):
            raise RuntimeError(f"{name} differs: {values}; not the same work")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24, help="of a response")
    given = parser.parse_args()
    job: dict[str, Any] = {
        "kind": "update",
        "attention": "sdpa",
        "lengths": [given.tokens] * given.rows,
        "prompts": ["?"] * (given.rows // 4),
        "group_size": 4,
        "prompt_tokens": 8,
        "max_response_tokens": given.tokens,
        "vocabulary": SIZES[given.size][-1],
        "clip_low": 0.2,
        "clip_high": 0.28,
        "lr": 1e-4,
        "max_grad_norm": 1.0,
        # Several micro-batches, after the last of which gradients are joined.
        "tokens_per_microbatch": 4 * (8 + given.tokens),
    }
    measurements, details = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        job |= {
            "folder": temporary,
            "model": str(random_model(Path(temporary) / "model", given.size)),
        }
        weights = sum(file.stat().st_size for file in Path(job["model"]).glob("*.safetensors"))
        for kind, lora_rank in (("full", 0), ("LoRA", 32)):
            found = {strategy: run(job, strategy, lora_rank) for strategy in STRATEGIES}
            print(json.dumps(found), file=sys.stderr, flush=True)
            check_same_work(found)
            details[kind] = found
            peaks = {
                strategy: [answer["training"] / MIB for answer in answers]
                for strategy, answers in found.items()
            }
            for strategy in STRATEGIES[1:]:
                name = f"{kind}: update, {strategy} / ddp"
                measurements.append(share(name, peaks[strategy], peaks["ddp"], "MiB"))
            push = [answer["push"] / MIB for answer in found["fsdp"]]
            largest = [answer["largest"] / MIB for answer in found["fsdp"]]
            name = f"{kind}: stream of gathered weights / largest tensor"
            measurements.append(share(name, push, largest, "MiB"))
        measurements.append(Measurement(name="weights", value=weights / MIB, unit="MiB"))
    report("sharding", measurements, settings=vars(given), details=details)


if __name__ == "__main__":
    main()
