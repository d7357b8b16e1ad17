"""python -m benchmarks.agreement: engine against trainer on models of random weights.

For each shape: the mean |difference| in nats of the engine's log-probs from the trainer's in fp32 and in
bf16, with the weights read from disk and again after a push. What bf16 alone does is the last column; an
engine far beyond it computes something else than the trainer.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.workload import SIZES, random_model
from ceeh.config.settings import Model
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.modules.policy import Policy


@torch.no_grad()
def differences(policy: Policy, engine: VLLMEngine, device: str) -> tuple[float, float, float]:
    """Of the canary's tokens: engine - fp32 trainer, engine - bf16 trainer, bf16 - fp32 trainer."""
    prompt, completion = engine.canary(temperature=1.0)
    token_ids = torch.tensor([prompt + completion.token_ids], device=device)
    mask = torch.arange(token_ids.shape[1], device=device)[None] >= len(prompt)
    sampled = torch.tensor(completion.logprobs)
    full = policy(token_ids, mask)[0][mask].float().cpu()
    with torch.autocast(device, torch.bfloat16):
        half = policy(token_ids, mask)[0][mask].float().cpu()
    pairs = ((sampled, full), (sampled, half), (half, full))
    first, second, third = (float((a - b).abs().mean()) for a, b in pairs)
    return first, second, third


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SIZES, default=["tiny", "grouped"])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--graphs", action="store_true", help="compile and capture CUDA graphs")
    parser.add_argument("--sleep", action="store_true", help="build the engine with sleep mode")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print("shape       dtype     weights  engine-fp32  engine-bf16  bf16-fp32")
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
                options = {"enforce_eager": not given.graphs, "max_num_seqs": 16}
                with VLLMEngine(
                    folder, 256, dtype=dtype, kv_cache_gib=0.5, sleep=given.sleep, options=options
                ) as engine:
                    for weights in ("disk", "push"):
                        if weights == "push":
                            engine.load_weights(policy.engine_weights(), policy_version=0)
                        found = "".join(f"{x:13.2e}" for x in differences(policy, engine, device))
                        print(f"{shape:12}{dtype:10}{weights:5}{found}", flush=True)


if __name__ == "__main__":
    main()
