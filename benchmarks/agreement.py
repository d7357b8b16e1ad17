"""python -m benchmarks.agreement: engine against trainer on models of random weights.

For each shape, with the weights read from disk and again after a push: the canary's mean |difference| in
nats of the engine's log-probs from the trainer's in fp32 and in bf16, and what bf16 alone does. An engine far
beyond that computes something else than the trainer. What it is, the other columns narrow down:

    cudnn_fp32  bf16 with cuDNN's attention, which ceeh turns off, against fp32
    signed   the mean with its sign. Near the mean: the normalization is wrong; near 0: the hidden states are
    first    the first token's difference, which the prefill alone computes
    weights  matrices of the engine that are not the trainer's in the engine's dtype
    rotary   largest error of the engine's table of cosines and sines
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.workload import SIZES, random_model
from ceeh.config.settings import Model
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.modules.policy import Policy

FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Matrices that vLLM keeps as one."""


class Agreement(NamedTuple):
    """Nats on the canary's tokens, the number of wrong matrices, the error of the rotary table."""

    engine_fp32: float
    engine_bf16: float
    bf16_fp32: float
    cudnn_fp32: float
    signed: float
    first: float
    wrong_weights: int
    rotary: float


@torch.no_grad()
def agreement(policy: Policy, engine: VLLMEngine, device: str) -> Agreement:
    prompt, completion = engine.canary(temperature=policy.temperature)
    token_ids = torch.tensor([prompt + completion.token_ids], device=device)
    mask = torch.arange(token_ids.shape[1], device=device)[None] >= len(prompt)
    sampled = torch.tensor(completion.logprobs)
    full = policy(token_ids, mask)[0][mask].float().cpu()
    halves = []
    for cudnn in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        with torch.autocast(device, torch.bfloat16):
            halves.append(policy(token_ids, mask)[0][mask].float().cpu())
    of_cudnn, half = halves
    weights = dict(policy.engine_weights())
    config = policy.causal_lm.config
    wrong, rotary = engine._live().apply_model(lambda model: faults(model, weights, config))[0]
    return Agreement(
        engine_fp32=float((sampled - full).abs().mean()),
        engine_bf16=float((sampled - half).abs().mean()),
        bf16_fp32=float((half - full).abs().mean()),
        cudnn_fp32=float((of_cudnn - full).abs().mean()),
        signed=float((sampled - half).mean()),
        first=float((sampled - half)[0].abs()),
        wrong_weights=wrong,
        rotary=rotary,
    )


def faults(model: nn.Module, weights: dict[str, Tensor], config: Any) -> tuple[int, float]:
    """Matrices of vLLM's `model` that differ from `weights`, and the error of its rotary table."""
    wrong, rotary = 0, 0.0
    for name, own in model.named_parameters():
        if not own.numel():  # packed elsewhere, on the CPU
            continue
        for fused, parts in FUSED.items():
            if fused in name:
                expected = torch.cat([weights[name.replace(fused, part)] for part in parts])
                break
        else:
            expected = weights[name]
        wrong += not torch.equal(own[: len(expected)], expected.to(own))
    for name, table in model.named_buffers():
        if name.endswith("cos_sin_cache"):
            size = table.shape[1]
            steps = torch.arange(0, size, 2, device=table.device).double() / size
            angles = torch.arange(len(table), device=table.device).double()[:, None] / (
                config.rope_parameters["rope_theta"] ** steps
            )
            exact = torch.cat([angles.cos(), angles.sin()], 1)
            rotary = max(rotary, float((table[:64] - exact[:64]).abs().max()))
    return wrong, rotary


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", nargs="+", choices=SIZES, default=["tiny", "grouped"])
    parser.add_argument("--layers", type=int, help="the shape's own if not given")
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--graphs", action="store_true", help="compile and capture CUDA graphs")
    parser.add_argument("--sleep", action="store_true", help="build the engine with sleep mode")
    parser.add_argument(
        "--options", type=json.loads, default={}, help="further ones of the engine, as JSON"
    )
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    columns = "".join(f"{name:>14}" for name in Agreement._fields)
    print(f"{'shape':12}{'dtype':10}{'from':6}{columns}")
    for shape in given.shapes:
        with tempfile.TemporaryDirectory() as folder:
            random_model(
                Path(folder),
                shape,
                layers=given.layers,
                vocabulary=given.vocabulary,
                dtype=torch.bfloat16,
            )
            policy = Policy(Model(), folder, temperature=1.0, keep_reference=False)
            policy = policy.to(device).eval()
            for dtype in given.dtypes:
                options = {"enforce_eager": not given.graphs, "max_num_seqs": 16} | given.options
                with VLLMEngine(
                    folder, 256, dtype=dtype, kv_cache_gib=0.5, sleep=given.sleep, options=options
                ) as engine:
                    for weights in ("disk", "push"):
                        if weights == "push":
                            engine.load_weights(policy.engine_weights(), policy_version=0)
                        found = agreement(policy, engine, device)
                        cells = "".join(f"{value:14.2e}" for value in found)
                        print(f"{shape:12}{dtype:10}{weights:6}{cells}", flush=True)


if __name__ == "__main__":
    main()
