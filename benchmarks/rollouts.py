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
from ceeh.config.settings import DynamicSampling
from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.data.loader import RolloutLoader
from ceeh.data.prompts import PromptBuilder, PromptStream, load_prompts
from ceeh.data.sources.starter_task import StarterTask
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.starter.model import MODEL_DIR, build_tokenizer


class Recorder(VLLMEngine):
    """Records the requests it gets, and can hand them to vLLM as they are."""

    requests: tuple[Any, Any, int]

    def _run(self, prompts: Any, params: Any, engine_seed: int) -> Any:
        self.requests = prompts, params, engine_seed
        return super()._run(prompts, params, engine_seed)

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
    prompts = load_prompts(
        StarterTask(questions=given.prompts, seed=0, split="train"),
        PromptBuilder(
            build_tokenizer(),
            max_prompt_tokens=32,
            chat_template=False,
            system_prompt=None,
            instruction=None,
        ),
        "prompts.train",
    )
    engine = Recorder(str(MODEL_DIR), 32 + given.max_tokens)

    def loader() -> RolloutLoader:
        # A fresh one each time: the same prompts with the same seeds.
        return RolloutLoader(
            engine=engine,
            verifier=ExactAnswer(),
            stream=PromptStream(prompts, seed=0, prompts_per_step=given.prompts),
            sampling=Sampling(
                completions=given.completions,
                temperature=1.0,
                max_tokens=given.max_tokens,
                seeds=given.seeds,
            ),
            steps=1,
            pad_token_id=0,
            dynamic=DynamicSampling(),
            gather=lambda value: [value],
        )

    counted: dict[str, int] = {}
    parts: dict[str, list[float]] = {"generate": [], "score": [], "collate": []}

    def ours() -> None:
        batch = next(iter(loader()))
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
