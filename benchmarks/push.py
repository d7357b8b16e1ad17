"""python -m benchmarks.push: a weight push into the engine against a plain copy of the same bytes.

Under torchrun with `--tensor-parallel N` the ranks share an engine; rank 0 reports.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch

from benchmarks.harness import in_turn, report, share
from benchmarks.memory import MIB, peak_memory
from benchmarks.workload import SIZES, random_model
from ceeh.config.settings import LoRA, Model
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.modules.policy import Policy
from ceeh.runtime.distributed import is_rank_zero, join_processes

GB = 1e9


def pack(weights: list[torch.Tensor]) -> None:
    """What vLLM's CPU build does with every matrix on its way into the engine: oneDNN's layout."""
    from vllm import _custom_ops as ops

    for weight in weights:
        if weight.dim() == 2:
            ops.create_onednn_mm(weight.t(), 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="wide")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument(
        "--gathered", action="store_true", help="push copies, as a sharded trainer gathers them"
    )
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    join_processes(device)
    with tempfile.TemporaryDirectory() as folder:
        path = str(random_model(Path(folder) / "model", given.size))
        settings = Model(lora=LoRA(rank=given.lora_rank))
        policy = Policy(settings, path, temperature=1.0, keep_reference=False).to(device)
        weights = dict(policy.engine_weights())
        sizes = [weight.nbytes for weight in weights.values()]
        copies = {name: torch.empty_like(weight) for name, weight in weights.items()}

        def copy() -> None:
            for name, weight in weights.items():
                copies[name].copy_(weight)

        def pushed() -> Iterator[tuple[str, torch.Tensor]]:
            for name, weight in policy.engine_weights():
                yield name, weight.clone() if given.gathered else weight

        with VLLMEngine(path, 256, tensor_parallel=given.tensor_parallel) as engine:

            def push() -> None:
                engine.load_weights(pushed(), policy_version=0)

            push()
            with peak_memory() as peak:
                push()
            contestants = {"push": push, "copy": copy}
            if device == "cpu":
                contestants["pack"] = partial(pack, list(weights.values()))
            seconds = in_turn(contestants, repeats=given.repeats)
    per_gb = {name: [each / sum(sizes) * GB for each in values] for name, values in seconds.items()}
    measurements = [
        share("push / copy", per_gb["push"], per_gb["copy"], "s/GB"),
        share("extra memory / largest tensor", [peak[0] / MIB], [max(sizes) / MIB], "MiB"),
    ]
    if device == "cpu":
        packing = "packing alone / copy (vLLM's CPU build packs what it loads)"
        measurements.append(share(packing, per_gb["pack"], per_gb["copy"], "s/GB"))
    if not is_rank_zero():
        return
    settings = vars(given) | {"bytes": sum(sizes), "tensors": len(sizes)}
    name = "push" if given.tensor_parallel == 1 else "push_shared"
    report(name, measurements, settings=settings, details=seconds)


if __name__ == "__main__":
    main()
