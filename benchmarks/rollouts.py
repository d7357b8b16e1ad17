"""python -m benchmarks.rollouts: tokens per second through the rollout stream and of vLLM alone.

Ours is everything a training step waits for: drawing prompts, generation, grading, collating.
The reference is `LLM.generate` of the same engine on the same requests with the same seeds.
"""

import argparse
import os
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

from benchmarks.harness import in_turn, report, share
from benchmarks.worker import ROOT
from ceeh.assembly.inputs import gather_inputs
from ceeh.config.settings import load
from ceeh.data.datamodule import RolloutDataModule
from ceeh.data.engine.vllm_engine import VLLMEngine

CONFIG = ROOT / "configs" / "ceeh.yaml"


class Recorder(VLLMEngine):
    """Records the requests it gets, and can hand them to vLLM as they are."""

    requests: tuple[Any, Any, int]

    def _run(
        self, prompts: Any, params: Any, engine_seed: int, stoppable: bool = True
    ) -> list[Any]:
        self.requests = prompts, params, engine_seed
        return super()._run(prompts, params, engine_seed, stoppable)

    def raw(self) -> int:
        prompts, params, _ = self.requests
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._live().generate(inputs, [p.clone() for p in params], use_tqdm=False)
        return sum(len(each.token_ids) for request in outputs for each in request.outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=32, help="per step")
    parser.add_argument("--completions", type=int, default=12, help="per prompt")
    parser.add_argument("--max-tokens", type=int, default=224)
    parser.add_argument("--seeds", choices=("request", "step"), default="request")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    overrides = {
        "rollouts.steps": 1,
        "rollouts.prompts_per_step": given.prompts,
        "rollouts.completions_per_prompt": given.completions,
        "rollouts.max_response_tokens": given.max_tokens,
        "rollouts.seeds": given.seeds,
        "prompts.train.init_args.questions": given.prompts,
        "optimizer.prompts_per_minibatch": given.prompts,
    }
    config = load([CONFIG], [f"{name}={value}" for name, value in overrides.items()])
    inputs = gather_inputs(config)
    engine = Recorder(inputs.model_path, config.prompts.max_prompt_tokens + given.max_tokens)
    datamodule = RolloutDataModule(
        config,
        engine=engine,
        verifier=inputs.verifier,
        train_prompts=inputs.train_prompts,
        held_out_prompts=(),
        pad_token_id=0,
    )
    counted: dict[str, int] = {}
    parts: dict[str, list[float]] = {"generate": [], "score": [], "collate": []}

    def ours() -> None:
        # A new loader each time: the same prompts with the same seeds.
        batch = next(iter(datamodule.train_dataloader()))
        counted["ours"] = int(batch.lengths.sum())
        for name, seconds in parts.items():
            seconds.append(batch.timings[name])

    def reference() -> None:
        counted["raw"] = engine.raw()

    with engine:
        seconds = in_turn({"ours": ours, "raw": reference}, repeats=given.repeats)
    assert given.seeds == "step" or counted["ours"] == counted["raw"], counted
    speed = {name: [counted[name] / each for each in values] for name, values in seconds.items()}
    report(
        "rollouts",
        [share("rollouts / raw vLLM", speed["ours"], speed["raw"], "tokens/s")],
        settings=vars(given) | {"model": "starter", "tokens": counted["raw"]},
        details=seconds | {f"ours, {name}": median(values) for name, values in parts.items()},
    )


if __name__ == "__main__":
    main()
